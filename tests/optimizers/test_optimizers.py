"""The feature-norm rescaling as an optax transformation, and optimisers whose numbers are data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.sweeps.program import Programs

C, N, P, UPDATES = 3, 2, 4, 12
LABELS = uj.balanced(C, N)
MODEL = uj.unconstrained(LABELS, dim=P, loss="mse")
STATE = MODEL.init(jax.random.key(0), precision="float64")
ADAM = {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
"""With an epsilon and a decay that matter, so that no derivative with respect to them is small."""


def descent(make: Callable[..., Any] = optax.adamw, **numbers: Any) -> uj.Descent:
    return uj.Descent(optimizer=uj.Optimizer(make, **{**(ADAM if make is optax.adamw else {}), **numbers}))


def by_hand(
    learning_rate: float, b1: float, b2: float, eps: float, weight_decay: float,
    until: int = UPDATES, then: float | None = None,
) -> float:  # fmt: skip
    """The norm of W after Adam with decoupled decay on the mean square error, in a NumPy loop; b1 becomes `then`."""
    parts = [np.array(STATE.H), np.array(STATE.W)]
    Y = np.eye(C)[np.asarray(LABELS.index)]
    mean, square = [0 * part for part in parts], [0 * part for part in parts]
    for k in range(1, until + 1):
        b1 = then if then is not None and k > UPDATES // 2 else b1
        H, W = parts
        slope = SCALE * (H @ W.T - Y)
        grads = [slope @ W, slope.T @ H]
        mean = [b1 * m + (1 - b1) * g for m, g in zip(mean, grads, strict=True)]
        square = [b2 * v + (1 - b2) * g**2 for v, g in zip(square, grads, strict=True)]
        steps = [(m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps) for m, v in zip(mean, square, strict=True)]
        parts = [x - learning_rate * (d + weight_decay * x) for x, d in zip(parts, steps, strict=True)]
    return float(np.linalg.norm(parts[1]))


SCALE = 1 / (C * N)  # the loss of a sample is |s - y|^2 / 2, and the model takes the mean over samples


def slope_by_hand(name: str) -> float:
    """A central difference of the loop."""
    step = 1e-5 * max(ADAM[name], 1e-2)
    up, down = (by_hand(**{**ADAM, name: ADAM[name] + sign * step}) for sign in (1, -1))
    return (up - down) / (2 * step)


def norm_of(dynamics: uj.Descent, state: uj.State = STATE) -> Any:
    return uj.simulate(MODEL, dynamics, state, [UPDATES], "norm_W").last("norm_W")


def in_float32(state: uj.State = STATE) -> uj.State:
    return jax.tree.map(lambda part: np.asarray(part, np.float32), state)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("change", [{}, {"b1": 0.5}, {"b2": 0.7, "eps": 1e-2}, {"weight_decay": 0.0}])
def test_adam_equals_a_loop_and_optax_built_already(precision: str, tolerance: float, change: dict[str, float]) -> None:
    start = STATE if precision == "float64" else in_float32()
    numbers = {**ADAM, **change}
    want = by_hand(**numbers)
    for dynamics in (descent(**change), uj.Descent(optimizer=optax.adamw(**numbers))):
        assert float(norm_of(dynamics, start)) == pytest.approx(want, rel=tolerance)


def test_sensitivities_equal_differences_of_the_loop() -> None:
    names = [f"optimizer.{name}" for name in ADAM]
    everything = uj.sensitivity(MODEL, descent(), STATE, [UPDATES], "norm_W")["first"].squeeze()
    found = everything.sel(parameter=names)
    np.testing.assert_allclose(found, [slope_by_hand(name) for name in ADAM], rtol=1e-6)
    others = {"optimizer.eps_root", "eta", "rate_H", "rate_W"}
    assert others < {*everything["parameter"].values.tolist()} and np.all(np.isfinite(everything))


def test_jax_differentiates_and_maps_with_respect_to_any_number() -> None:
    """An optimiser is a tree of its numbers, and may be the argument of a function that JAX transforms."""
    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(lambda optimizer: norm_of(uj.Descent(optimizer=optimizer))))(descent().optimizer)
    for name in ADAM:
        assert float(slopes.numbers[name]) == pytest.approx(slope_by_hand(name), rel=1e-6)
    narrow = jax.vmap(jax.grad(lambda b1: norm_of(descent(b1=b1), in_float32())))(jnp.array([0.8, 0.5]))
    assert narrow.dtype == np.float32 and float(narrow[0]) == pytest.approx(slope_by_hand("b1"), rel=1e-3)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)])
def test_batches_of_optimizers_run_are_kept_and_go_on(shape: tuple[int, ...], tmp_path: Any) -> None:
    """A batch over b1 in float32, in a file, and from there on with one b1."""
    b1 = np.linspace(0.3, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    mapped = lambda b1: uj.simulate(MODEL, descent(b1=b1), in_float32(), [0, UPDATES // 2], "norm_W")  # noqa: E731
    for _ in shape:
        mapped = jax.vmap(mapped)
    runs = mapped(b1)
    runs.save(tmp_path / "runs.npz")
    again = uj.load(tmp_path / "runs.npz", descent())
    assert again == runs and runs.batch == shape
    later = uj.simulate(MODEL, descent(b1=0.6), again, [UPDATES], "norm_W")
    assert later.batch == shape and later["norm_W"].dtype == np.float32
    for place in np.ndindex(shape):
        numbers = {**ADAM, "b1": float(b1[place])}
        assert float(runs["norm_W"][(*place, 1)]) == pytest.approx(by_hand(**numbers, until=UPDATES // 2), rel=1e-5)
        assert float(later["norm_W"][(*place, 0)]) == pytest.approx(by_hand(**numbers, then=0.6), rel=1e-5)


def compilations(run: Callable[[], Any]) -> list[str]:
    found: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: found.append(event) if event.endswith("backend_compile_duration") else None
    )
    try:
        run()
    finally:
        jax.monitoring.clear_event_listeners()
    return found


def test_other_numbers_compile_nothing_and_change_the_result() -> None:
    seen = [float(norm_of(descent()))]
    for name, value in ADAM.items():
        changed = {name: value * 0.9}
        assert compilations(lambda changed=changed: seen.append(float(norm_of(descent(**changed))))) == []
        assert seen[-1] == pytest.approx(by_hand(**{**ADAM, **changed}), rel=1e-13)
    assert len(set(seen)) == len(seen)


PLAN = {
    "model": {"case": "unconstrained", "dim": P, "loss": "mse"},
    "labels": {"layout": "balanced", "classes": C, "per_class": N},
    "dynamics": {"kind": "descent", "optimizer": {"name": "adamw", **ADAM}},
    "run": {"times": [0, UPDATES], "observe": ["norm_W"], "precision": "float64"},
}


def test_a_sweep_over_the_numbers_of_adam_is_one_program(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {f"dynamics.optimizer.{name}": [value, 0.9 * value] for name, value in ADAM.items()}
    made = []
    whole = Programs._compile

    def counted(self: Programs, shape: tuple[int, ...]) -> Any:
        made.append(shape)
        return whole(self, shape)

    monkeypatch.setattr(Programs, "_compile", counted)
    plan = uj.SweepPlan.of({**PLAN, "sweep": {"grid": grid}})
    data = uj.sweep(plan, tmp_path / "adam.zarr", workers=0, lanes=8, progress=False).load()
    assert data["norm_W"].shape == (2,) * len(ADAM) + (1, 2) and len(made) == 1
    names = list(ADAM)
    for place in itertools.islice(np.ndindex((2,) * len(ADAM)), 0, None, 5):
        numbers = {name: ADAM[name] * (0.9 if at else 1.0) for name, at in zip(names, place, strict=True)}
        assert float(data["norm_W"][(*place, 0, 1)]) == pytest.approx(by_hand(**numbers), rel=1e-13)


@pytest.mark.long
def test_the_time_of_an_event_is_differentiated_with_respect_to_the_numbers() -> None:
    def when(b1: Any) -> Any:
        settings: dict[str, Any] = {"times": [0, UPDATES], "direction": "below", "method": "simulate"}
        return uj.event_time(MODEL, descent(b1=b1), STATE, "loss", 1.0, **settings).time

    with jax.enable_x64(True):
        time, slope = (float(found) for found in jax.value_and_grad(when)(0.8))
        assert 0 < time < UPDATES and slope != 0
        assert slope == pytest.approx(float(when(0.8 + 1e-6) - when(0.8 - 1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize(("make", "ends"), [(optax.adam, 0), (uj.normalized_descent, None)])
def test_squares_that_overflow_end_a_run(make: Callable[..., Any], ends: int | None) -> None:
    """Adam would divide by their infinite root, and stand still without a word."""
    model = uj.frozen(LABELS, dim=P)
    start = in_float32(STATE.replace(H=1e25 * STATE.H))
    run = uj.simulate(model, descent(make, learning_rate=0.1), start, [0, 3], "norm_W")
    assert (run.result == run.result.OVERFLOW) == (ends is not None)
    assert np.isfinite(run["norm_W"]).tolist() == [True, ends is None]
    assert int(run.elapsed) == (3 if ends is None else ends)


STILL = {"b": uj.unconstrained, "W": uj.anchored, "H": uj.frozen}


@pytest.mark.parametrize("name", STILL)
def test_what_does_not_move_stays_whatever_the_optimizer(name: str) -> None:
    """Weight decay and noise of an optimiser act on parameters of gradient 0, too."""

    def chained(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
        noise = optax.add_noise(1e-2, 0.5, key=jax.random.key(0))
        return optax.chain(optax.adamw(learning_rate, weight_decay=weight_decay), noise)

    start = STATE.replace(b=np.array([0.5, -1.0, 2.0]))
    dynamics = descent(chained, learning_rate=0.1, weight_decay=0.5)
    run = uj.simulate(STILL[name](LABELS, dim=P, loss="mse"), dynamics, start, [5], "norm", states=True)
    for part in ("H", "W", "b"):
        moved = bool(np.any(np.asarray(getattr(run.final, part)) != getattr(start, part)))
        assert moved == (part != name and part != "b"), part


def test_what_is_data_is_found_out() -> None:
    def parts(make: Callable[..., Any], **arguments: Any) -> tuple[set[str], set[str]]:
        made = uj.Optimizer(make, **arguments)
        return {*made.numbers}, {*made.settings}

    numbers = {"learning_rate": 1, "momentum": 0.9}
    assert parts(optax.sgd, nesterov=True, **numbers) == ({*numbers}, {"nesterov"})
    mask = {"H": True, "W": False, "b": False}
    assert parts(optax.adamw, learning_rate=0.1, mask=mask)[1] == {"mask"}
    assert parts(optax.adafactor, learning_rate=0.1, min_dim_size_to_factor=2)[1] == {"min_dim_size_to_factor"}
    assert parts(optax.sgd, learning_rate=uj.cosine(0.1, 9)) == ({"learning_rate"}, set())
    assert parts(optax.sgd, learning_rate=optax.linear_schedule(1.0, 0.0, 9)) == (set(), {"learning_rate"})
    assert parts(optax.lbfgs, learning_rate=0.1) == (set(), {"learning_rate"})  # refused by `simulate`

    def chained(rate: float, exponent: int) -> optax.GradientTransformation:
        return optax.chain(uj.rescale_by_feature_norm(exponent), optax.sgd(rate))

    mine = uj.Optimizer(chained, rate=0.3, exponent=1)
    assert ({*mine.numbers}, {*mine.settings}) == ({"rate"}, {"exponent"})
    assert float(norm_of(uj.Descent(optimizer=mine))) == float(norm_of(uj.Descent(optimizer=chained(0.3, 1))))
    with pytest.raises(ValueError, match=r"exponent cannot be traced, because .* program of .*'chained'"):
        jax.vmap(lambda q: norm_of(descent(chained, rate=0.3, exponent=q)))(jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"optimizer.b1 must be one number, but has shape \(3,\)"):
        norm_of(descent(b1=np.array([0.1, 0.2, 0.3])))


def test_schedules_inside_an_optimizer_are_data() -> None:
    def run(peak: float) -> float:
        return float(norm_of(descent(optax.sgd, learning_rate=uj.cosine(peak, 30))))

    first = run(0.3)
    assert first == pytest.approx(float(norm_of(uj.Descent(uj.cosine(0.3, 30)))), rel=1e-12)
    assert compilations(lambda: run(0.2)) == [] and run(0.2) != first


def test_optimizers_are_values_shown_in_a_line() -> None:
    adam = uj.Optimizer(optax.adam, b1=0.8, learning_rate=0.1)
    assert repr(adam) == "Optimizer(adam, learning_rate=0.1, b1=0.8, b2=0.999, eps=1e-08, eps_root=0.0)"
    same = uj.Optimizer(optax.adam, learning_rate=0.1, b1=0.8)
    assert adam == same and hash(adam) == hash(same) and uj.Descent(optimizer=adam) == uj.Descent(optimizer=same)
    assert adam != same.replace(b1=0.7) and adam != same.replace(nesterov=True) != same
    assert same.replace(nesterov=True).settings == {"nesterov": True}
    assert uj.Optimizer(optax.adam, learning_rate=0.1) != uj.Optimizer(optax.nadam, learning_rate=0.1)
    built = optax.adam(0.1)
    assert uj.Descent(optimizer=built) == uj.Descent(optimizer=built) != uj.Descent(optimizer=optax.adam(0.1))
    params = {"x": jnp.ones(2)}
    for optimizer in (adam, uj.Optimizer(built)):  # as any optax optimiser
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(updates["x"], -0.1, rtol=1e-5)


def rate_of(first: list[Any]) -> optax.GradientTransformation:
    return optax.sgd(sum(map(float, first)))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "called already": (lambda: uj.Optimizer(optax.adam(0.1), b1=0.9), "which is built already, and arguments"),
    "no constructor": (lambda: uj.Optimizer("adam", learning_rate=0.1), "takes a constructor.*but got 'adam'"),  # type: ignore[arg-type]
    "a missing argument": (lambda: uj.Optimizer(optax.adam), "was given no arguments, but takes learning_rate, b1"),
    "the name of another library": (
        lambda: uj.Optimizer(optax.adam, lr=0.1), "'adam' was given lr, but takes learning_rate, b1, b2"
    ),
    "a number by place": (lambda: uj.Optimizer(optax.adam, 0.1), r"by its name, as in Optimizer\(adam, learning_rate="),
    "an unknown argument": (
        lambda: uj.Optimizer(optax.adam, learning_rate=0.1, b3=0.9),
        "was given learning_rate, b3, but.*'b3'.*give each by its name; did you mean 'b[12]'",
    ),
    "an unknown name": (lambda: descent().optimizer.replace(b3=0.9), "'adamw' was given.*'b3'"),
    "an argument that its constructor refuses": (
        lambda: uj.Optimizer(rate_of, first=[0.1, "x"]), "'rate_of' cannot be built: ValueError: could not convert",
    ),
    "no optimiser": (lambda: uj.Optimizer(optax.constant_schedule, value=0.1), "not an optax optimiser"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_optimizers_are_refused(case: str) -> None:
    make, told = WRONG[case]
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("exponent", [1, 2])
def test_chained_with_sgd_it_is_the_models_own_rescaling(exponent: int) -> None:
    labels = uj.from_counts([3, 2, 2])
    plain = uj.spherical(labels, dim=5, gamma=0.2)
    built_in = uj.spherical(labels, dim=5, gamma=0.2, rescale=exponent)
    state = built_in.init(jax.random.key(0), scale=2.0, precision="float64")
    optimizer = optax.chain(uj.rescale_by_feature_norm(exponent), optax.sgd(0.3))
    chained = uj.simulate(plain, uj.Descent(optimizer=optimizer), state, [7], "norm_H")
    own = uj.simulate(built_in, uj.Descent(0.3), state, [7], "norm_H")
    np.testing.assert_allclose(chained.final.H, own.final.H, rtol=1e-13)
    assert np.max(np.abs(own.final.H - state.H)) > 0.05


ROOTED = {
    "adam": {}, "nadam": {}, "amsgrad": {}, "rmsprop": {"eps_in_sqrt": False},
    "adagrad": {"initial_accumulator_value": 0.0, "eps": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name != "adam")) for name in ROOTED])
def test_coordinates_whose_gradient_is_0_leave_derivatives_finite(name: str) -> None:
    model = uj.unconstrained(uj.balanced(classes=3, per_class=1), dim=2, loss="cross_entropy")
    rng, still = np.random.default_rng(3), np.array([1.0, 0.0])
    state = uj.State(rng.normal(size=(3, 2)) * still, rng.normal(size=(3, 2)) * still)
    optimizer = uj.Optimizer(getattr(optax, name), learning_rate=0.1, **ROOTED[name])

    def loss_after(rate: object) -> jax.Array:
        descent = uj.Descent(optimizer=optimizer.replace(learning_rate=rate))
        return uj.simulate(model, descent, state, [3], "loss")["loss"][-1]

    with jax.enable_x64(True):
        difference = (loss_after(0.1 + 1e-5) - loss_after(0.1 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss_after)(0.1), difference, rtol=1e-7)


def test_bad_exponent_and_missing_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="exponent must be one of 0, 1, 2"):
        uj.rescale_by_feature_norm(3)
    rescale = uj.rescale_by_feature_norm(1)
    with pytest.raises(ValueError, match="needs the parameters"):
        rescale.update({"H": np.ones((1, 2))}, rescale.init({}))
