"""Pictures are readable at the width of a page: no text is too small or cut, nothing is covered or empty."""

import itertools
import types

import figure_rules
import numpy as np
import pytest
from checkout import ROOT
from matplotlib.figure import Figure

import unhinged_jax as uj
from unhinged_jax import plots
from unhinged_jax.designs.optimise import DesignOutcome
from unhinged_jax.designs.picture import picture
from unhinged_jax.designs.reference import Reference
from unhinged_jax.paper import draw as paper
from unhinged_jax.paper.figures import FIGURES, Reproduction
from unhinged_jax.plots.looks import PALETTE, coincide, gamma_colours
from unhinged_jax.sweeps.bands import band_figure
from unhinged_jax.sweeps.maps import colours_of, map_figure
from unhinged_jax.theories import THEORIES
from unhinged_jax.theories import command as theories
from unhinged_jax.training.experiments import figures as experiments
from unhinged_jax.training.experiments import kernel_report
from unhinged_jax.training.experiments.kernel_plan import FACTS, KernelSection, times_of
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.pictures import history as history_of

xarray = pytest.importorskip("xarray", reason="sweeps need xarray")
RNG = np.random.default_rng(0)


# --- figures of every kind, from numbers made up -------------------------------------------------------------------


def run_curves():
    names = ["loss", "accuracy", "accuracy_margin", "log_norm", "nc1", "nc3_self_duality", "distance"]
    times = np.geomspace(0.1, 1e4, 30)
    return plots.curves(times, {name: times ** (k - 3.0) for k, name in enumerate(names)}, np.isfinite(times))


OBSERVED = ["log_norm", "accuracy", "accuracy_margin", "log_distance", "nc3_self_duality"]


def swept(facets=False, observed=OBSERVED, failed=True):
    """A plan over trade-off, decay and perhaps noise, and made-up numbers with failures."""
    grid = {
        "model.gamma": {"from": 0.0, "to": 0.3, "count": 7, "label": "trade-off γ"},
        "model.decay": {"from": 0.01, "to": 1.0, "count": 6, "spacing": "log", "label": "weight decay λ"},
    }
    if facets:
        grid["labels.noise.rate"] = {"values": [0.0, 0.3, 0.6], "label": "noise rate ρ"}
    noise = {"noise": {"kind": "symmetric", "rate": 0.1, "expected": True}} if facets else {}
    plan = uj.SweepPlan.of({
        "model": {"case": "regularized", "dim": 4, "decay": 0.1},
        "labels": {"layout": "balanced", "classes": 10, "per_class": 2, **noise},
        "dynamics": {"kind": "flow"},
        "run": {"times": [0, 1, 10, 100, 1000], "observe": list(observed)},
        "sweep": {"title": "A title that says what was swept", "method": "exact", "seeds": 3, "grid": grid},
    }, check=False)  # fmt: skip
    order = [dim.name for dim in plan.dims if dim.kind != "seed"] + ["seed"]
    shape = [plan.shape[name] for name in order]
    result = np.zeros(shape, int)
    if failed:
        result[0, 0] = 3
    meanings = {name: {"long_name": uj.observables.OBSERVABLES[name].meaning} for name in observed}
    times = [0.0, 1.0, 10.0, 100.0, 1000.0]
    data = {name: ((*order, "time"), made(name, (*shape, 5)), meanings[name]) for name in observed}
    coords = {"time": ("time", times, {"long_name": "time", "units": "1"})}
    return plan, xarray.Dataset({**data, "result": (order, result)}, coords), tuple(order[:2])


def made(name, shape):
    values = RNG.uniform(-1, 1, shape)
    if name.startswith("log_norm"):
        values[..., 0] = 0.0
        return 50 * values
    return {"accuracy": (values + 1) / 2, "nc3_self_duality": 10 ** (9 * values - 9)}.get(name, values)


def design():
    steps = np.linspace(0, 1, 300)
    path = {"model.gamma": 0.1 + 0.4 * steps, "model.decay": 0.02 + 0.03 * steps}
    reference = Reference(1e-3, {key: np.asarray(values[-1]) for key, values in path.items()}, "brute force")
    return picture(DesignOutcome({}, 1e-3, path, 1e-3 + np.exp(-30 * steps), {}, reference), "A title")


def reproduced(number):
    figure = FIGURES[number]()
    t = np.arange(0, 50_001, 1000)
    curves = {panel.letter: {} for panel in figure.panels}
    for panels, curve in figure.runs():
        for panel in panels:
            curves[panel.letter][curve.label] = (t, np.exp(-1e-4 * t * (1 + len(curves[panel.letter]))))
    with plots.style():
        return paper.figure_of(Reproduction(figure, curves, curves), with_published=False)


def outcomes(variants=("CE", "CE, λ=1e-4", "UL", "UL (PAL) + EFR"), points=("",), classes=3):
    """Made-up results of an experiment, one of them stopped early."""
    found = []
    for number, (variant, point) in enumerate(itertools.product(variants, points)):
        logits, norms = RNG.normal(size=(2, 40, classes)), RNG.uniform(1, 9, (2, 40))
        names = ("test_accuracy", "feature_norm", "norm_W", "prototype_ratio")
        history = {name: np.linspace(0.5, 0.9, 20)[:, None] + 0.01 * number + np.zeros((20, 2)) for name in names}
        history["feature_norm"] = 10.0 ** (np.arange(20.0)[:, None] / 3 + np.zeros((20, 2)))
        labels = np.arange(40) % classes
        outside = {"photographs": (logits - 1, norms - 1), "novel classes": (logits / 2, norms / 2)}
        stopped = np.array([-1, 12 if number == 0 else -1])
        found.append(ExperimentOutcome(variant, point, history, labels, logits, norms, outside, stopped, labels, 1.0))
    return found


def kernel():
    asked = KernelSection(widths=[64, 128, 256, 512], seeds=2)
    times = times_of(asked)
    errors = {width: times / width / 10 + 1e-3 for width in asked.widths}
    found = {
        (width, seed): dict.fromkeys(FACTS, errors[width] * (1 + seed)) for width in asked.widths for seed in (0, 1)
    }
    for of in found.values():
        of |= {"loss": 1 - 20 * times, "loss_predicted": 1 - 19 * times}
    at = {name: np.array([[found[w, s][name][9] for s in (0, 1)] for w in asked.widths]) for name in FACTS}
    slopes = {
        name: kernel_report.fitted_slope(asked.widths, at[name]) for name in ("features", "class_kernel", "prototypes")
    }
    with plots.style():
        return kernel_report._figure(asked, found, times, at, slopes)


def trained():
    history = {name: 10 * RNG.uniform(0.1, 1, (20, 3)) for name in ("loss", "test_accuracy", "feature_norm", "nc1")}
    settings = types.SimpleNamespace(seeds=[0, 1, 2])
    return history_of(types.SimpleNamespace(history=history, epochs=20, stopped=np.full(3, -1), settings=settings))


POINTS = ("long-tailed 100", "long-tailed 10", "step 100", "step 50", "step 10", "balanced")
TRAINING = {
    "accuracy": lambda: experiments.accuracy_curves(outcomes()),
    "points": lambda: experiments.against_points(outcomes(points=POINTS), "test accuracy (%)", xlabel="ratio"),
    "reliability": lambda: experiments.reliability_diagrams(outcomes(("CE", "CE, λ=1e-4", "UL"), POINTS[:4])),
    "scores": lambda: experiments.score_histograms(outcomes()),
    "growth": lambda: experiments.growth(outcomes()),
    "kernel": kernel,
    "history": trained,
}
SWEEPS = {
    "map": lambda: map_figure(*swept(), 4),
    "map with facets": lambda: map_figure(*swept(facets=True, observed=OBSERVED[:4]), 4),
    "map of one observable": lambda: map_figure(*swept(observed=OBSERVED[:1]), 4),
    "line instead of a map": lambda: map_figure(*swept()[:2], ("gamma",), 4),
    "bands": lambda: band_figure(*swept()),
    "bands of three": lambda: band_figure(*swept(observed=OBSERVED[:3])),
}
DRAWN = {"curves of a run": run_curves, "design": design, **SWEEPS, **TRAINING}
DRAWN |= {f"figure {number}": lambda number=number: reproduced(number) for number in ("1", "5", "9")}


def test_the_rules_see_what_is_wrong():
    with plots.style():
        figure = Figure(figsize=(12, 3))
        one, two, _ = figure.subplots(1, 3)
        drawn = one.pcolormesh(np.eye(3))
        figure.colorbar(drawn, ax=one)
        two.plot(np.linspace(0, 1, 9), label="a line")
        two.legend(loc="center")
        two.set_xticks([0, 0.1], ["a long label", "another"])
        one.set_title("x" * 300)
    wrong = "\n".join(figure_rules.faults(figure))
    for words in ("12.0 inches", "pixels high", "shows nothing", "no label", "sticks out", "covers 'a line'", "ticks"):
        assert words in wrong, words


def test_a_trade_off_has_one_colour_in_every_figure_of_the_paper():
    seen = {}
    for number in ("1", "5"):
        figure = reproduced(number)
        made = FIGURES[number]()
        for _, curve in made.runs():
            name = paper.name_of(made, curve.label)
            (legend,) = figure.legends
            handle = legend.legend_handles[[text.get_text() for text in legend.get_texts()].index(name)]
            seen.setdefault(round(float(curve.model.loss.gamma) * 99, 1), set()).add(handle.get_color())
    assert sorted(seen) == [0.0, 0.1, 0.5, 1.0, 5.0, 9.9]  # in units of 1/(C-1); three of them are in both figures
    assert all(len(colours) == 1 for colours in seen.values())
    assert len({colour for colours in seen.values() for colour in colours}) == 5  # no figure has both 5 and 9.9
    assert gamma_colours([0.0, 1 / 9], 10) == [PALETTE[6], PALETTE[4]]


def test_coinciding_curves_are_those_less_than_a_pixel_apart():
    x = np.linspace(1, 5, 50)
    axes = Figure().subplots()
    curves = {"a": 10.0**x, "b": 10.0**x * 1.01, "c": 10.0**-x, "d": np.where(x < 3, 10.0**-x, np.nan)}
    lines = {name: axes.plot(x, y)[0] for name, y in curves.items()}
    assert coincide(axes, lines) == ""  # 1 % apart, and d ends halfway
    axes.set_yscale("log")
    assert coincide(axes, lines) == "a and b coincide"


def test_curves_far_from_zero_coincide_only_if_they_do():
    """Limits that matplotlib has not looked for yet would put all of them beyond the panel."""
    x = np.linspace(0, 1, 50)
    for offset in (0.0, 715.0, -1e6):
        axes = Figure().subplots()
        lines = {name: axes.plot(x, offset + slope * x)[0] for name, slope in {"a": 1, "b": 2, "c": 1}.items()}
        assert coincide(axes, lines) == "a and c coincide"


def test_colours_of_maps_are_centred_at_zero_and_have_a_floor():
    plan, data, _ = swept()
    margin = colours_of(data["accuracy_margin"], 4)
    assert margin["norm"].vmin == -margin["norm"].vmax and "zero" in margin["note"]
    duality = colours_of(data["nc3_self_duality"], 4)
    assert duality["norm"].vmin == pytest.approx(1e-10 * duality["norm"].vmax) and duality["extend"] == "min"
    some = data["nc3_self_duality"].copy()
    some[2, 2] = 0.0
    shades = map_figure(plan, data.assign(nc3_self_duality=some)[["nc3_self_duality", "result"]], ("gamma", "decay"), 4)
    (mesh,) = (found for found in shades.axes[0].collections if hasattr(found, "get_coordinates"))
    cells = np.ma.masked_array(mesh.get_array())
    assert cells.mask.sum() == 1  # the failed one; a zero has the colour of the floor
    assert cells.min() == pytest.approx(duality["norm"].vmin)


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_readable(name):
    assert figure_rules.faults(DRAWN[name]()) == []


KEPT = ROOT / "docs" / "theories" / "curves.npz"


@pytest.mark.skipif(not KEPT.is_file(), reason="the curves of the theories are in a checkout of the project only")
def test_pictures_of_theories_are_readable():
    found = {}
    for name, curves in theories.kept(KEPT).items():
        with plots.style():
            figure = Figure(figsize=THEORIES[name].size, layout="constrained")
            THEORIES[name].draw(curves, figure)
        found[name] = figure_rules.faults(figure)
    assert len(found) > 10 and {name: wrong for name, wrong in found.items() if wrong} == {}
