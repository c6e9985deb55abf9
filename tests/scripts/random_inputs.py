"""Random configurations and random calls: each is refused in one sentence, or accepted and right.

    python tests/scripts/random_inputs.py [--configurations 300] [--calls 300] [--seed 0] [--only KIND NUMBER]

A configuration or a call that is right is changed in up to three places: a value of another type, out of range or of
another shape, an unknown key, a key that is missing. A refusal is a `ValueError` or a `TypeError` (a `KeyError` for
a name that is looked up) that the package itself raises, on one line; all else that is raised is a miss, and so is an
answer that takes more than 20 seconds of the processor or is not finite where the run says that it got there, or a
simulated run that is far from the exact one. Prints every miss with the number that draws it again; exit status 1 if
there is one.
"""

from __future__ import annotations

import argparse
import ast
import collections
import copy
import dataclasses
import datetime
import functools
import pathlib
import sys
import time
import traceback
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas

import unhinged_jax as uj
from unhinged_jax import losses
from unhinged_jax.config.problem import build
from unhinged_jax.config.reading import checked_value, config_of
from unhinged_jax.config.sections import Config
from unhinged_jax.designs.plan import DesignSection
from unhinged_jax.kernel import Kernel
from unhinged_jax.sweeps.plan import SweepSection
from unhinged_jax.training.settings import Settings

ROOT = str(pathlib.Path(uj.__file__).parent)
SECONDS = 20  # of the processor, that an answer may take
LONGEST = 900  # characters of a message

# --- configurations -------------------------------------------------------------------------------------------------

LABELS: dict[str, Any] = {"layout": "balanced", "classes": 2, "per_class": 2}
FLOW: dict[str, Any] = {"kind": "flow", "schedule": 0.5, "max_steps": 2000}
DESCENT: dict[str, Any] = {"kind": "descent", "schedule": 0.2}
RUN: dict[str, Any] = {"until": 4, "points": 5, "observe": ["log_norm", "loss"]}
RUNS: tuple[dict[str, Any], ...] = (
    {"model": {"case": "regularized", "dim": 3, "decay": 0.1}, "labels": LABELS, "dynamics": FLOW, "run": RUN},
    {"model": {"case": "unconstrained", "dim": 3}, "labels": {"layout": "counts", "counts": [2, 2]},
     "dynamics": DESCENT, "run": RUN},
    {"model": {"case": "spherical", "dim": 3, "rescale": 1}, "labels": LABELS, "dynamics": DESCENT, "run": RUN},
    {"model": {"case": "anchored", "dim": 3, "loss": "cross_entropy"}, "labels": LABELS, "dynamics": DESCENT,
     "run": {**RUN, "observe": "accuracy_margin"}},
)  # fmt: skip
SWEEP = {"grid": {"model.decay": [0.1, 0.2]}, "seeds": 2, "method": "exact"}
DESIGN = {
    "goal": [{"observe": "log_norm"}], "steps": 2,
    "free": {"model.decay": {"domain": "interval", "low": 0.01, "high": 1.0}},
}  # fmt: skip
TRAINING: dict[str, Any] = {"head": {"kind": "linear"}, "train": {"epochs": 1}, "network": {"kind": "mlp"}}
FILES = (
    *({"run": run} for run in RUNS), {"sweep": {**RUNS[0], "sweep": SWEEP}}, {"design": {**RUNS[0], "design": DESIGN}},
    {"training": TRAINING},
)  # fmt: skip

SECTIONS: dict[str, Any] = {
    **{name: kind for name, kind in typing.get_type_hints(Config).items() if name != "path"},
    "sweep": SweepSection, "design": DesignSection,
    **typing.get_type_hints(Settings),
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 10**19, 0.5, -0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), "", "text",
    "norm",
    "a\nb", "../x.npy", "mine.npz:w", "module:f", ":", True, False, [], [1, 2], [0.5, 0.5], [-1.0, 2.0],
    [[1], [2, 3]], [2, 2], [0, 0, 1, 1], [1.0, 1.0, 1.0, 0.0], "flow", "descent", "cosine", "normal", "cyclic", 0.1,
    [[1e300]], ["a", "b"], [float("nan"), 1.0], [[0.5, 0.5], [1.0, 0.0]], {}, {"name": "focal"}, {"kind": "cosine"},
    {"name": "focal", "focusing": 1.0}, {"kind": "cosine", "peak": 0.1, "horizon": 5},
    {"kind": "numeric", "function": "math:sin"},
    {"kind": "symmetric", "rate": 0.1, "expected": True}, {"kind": "symmetric", "rate": 2.0, "seed": -1}, "adam",
    "lbfgs",
    {"name": "adam", "learning_rate": 0.1}, "Tsit5", "KenCarp4", "float64", "exact", "log", "all", "mse", "balanced",
    {"model.decay": {"low": 0}}, {"model.decay": {"from": 0, "to": 1, "count": 2}}, {"a": {"b": {"c": 1}}}, [{}], [[]],
    datetime.date(2020, 1, 1),
)  # fmt: skip
"""Everything that a TOML file can hold, small and large, right in one place and wrong in another. Sizes that are merely
large are left out: what a machine can hold is asked elsewhere."""


@functools.cache
def fitting(section: str, key: str) -> list[int]:
    """Places in `VALUES` of what has the type of a key."""
    hint = typing.get_type_hints(SECTIONS[section])[key]

    def fits(value: Any) -> bool:
        try:
            checked_value(hint, value, "")
        except ValueError:
            return False
        return True

    return [place for place, value in enumerate(VALUES) if fits(value)]


def configuration(draw: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """The kind of a file, and its tables, changed in one to three places, most often by a value of the right type."""
    ((kind, tables),) = FILES[draw.integers(len(FILES))].items()
    tables = copy.deepcopy(tables)
    names = [field.name for field in dataclasses.fields(Settings if kind == "training" else Config)]
    names = [name for name in names if name != "path"] + ([kind] if kind in ("sweep", "design") else [])
    for _ in range(draw.choice([1, 2, 3], p=[0.6, 0.3, 0.1])):
        section = names[draw.integers(len(names))]
        keys = [field.name for field in dataclasses.fields(SECTIONS[section])]
        key = keys[draw.integers(len(keys))]
        right = fitting(section, key)
        place = right[draw.integers(len(right))] if right and draw.random() < 0.9 else draw.integers(len(VALUES))
        what, value, table = draw.integers(16), VALUES[place], tables.setdefault(section, {})
        if what == 0:
            tables[section] = value
        elif isinstance(table, dict) and what == 1:
            table.pop(key, None)
        elif isinstance(table, dict):
            table[key[1:] if what == 2 else key] = value
    return kind, tables


def read(kind: str, tables: dict[str, Any]) -> None:
    """Read a file as its command does, and run it if it is that of a run."""
    folder = pathlib.Path("plan.toml")
    if kind == "sweep":
        uj.SweepPlan.of(tables, folder)
    elif kind == "design":
        uj.DesignPlan.of(tables, folder)
    elif kind == "training":
        Settings.of(tables, folder)
    else:
        problem = build(config_of(tables, folder))
        if problem.times[-1] > 1e4 and isinstance(problem.dynamics, uj.Descent):
            return  # right, and takes its time
        given = (problem.model, problem.dynamics, problem.state, problem.times, problem.observe)
        settings = {"states": problem.states, "target": problem.target}
        look(uj.simulate(*given, **settings))
        try:
            truth = uj.exact(*given, **settings)
        except uj.NoClosedForm:
            return
        look(truth)
        agree(uj.simulate(*given, **settings), truth)


def look(run: uj.Trajectory) -> None:
    """Raise unless a run is finite where it says that it got to, but for a loss that leaves the range."""
    reached = np.asarray(run.reached)
    for name, values in run.arrays().items():
        if name.startswith("log_") and not np.all(np.isfinite(values[reached]) | (values[reached] == -np.inf)):
            raise AssertionError(f"{name} is {values[reached]} where the run got to")
    for part in (run.final.H, run.final.W, run.final.b):
        assert np.all(np.isfinite(part)), f"the final state is not finite, with the result {run.result.name}"


def agree(run: uj.Trajectory, truth: uj.Trajectory) -> None:
    """Raise if logarithms of a simulated run are far from the exact ones, where both got to."""
    both = np.asarray(run.reached) & np.asarray(truth.reached)
    for name, values in run.arrays().items():
        if name != "log_norm" or not both.any():
            continue
        ours, theirs = values[both], truth.arrays()[name][both]
        size = 1 + np.max(np.abs(theirs), initial=0.0)
        assert np.allclose(ours, theirs, atol=1e-2 * size), f"{name}: simulated {ours}, exact {theirs}"


# --- calls ----------------------------------------------------------------------------------------------------------

CLASSES = uj.balanced(2, 1)
MODEL = uj.regularized(CLASSES, 2, decay=0.1)
KEY = jax.random.key(0)
STATE = MODEL.init(KEY)
MOVES = uj.Flow(max_steps=2000)
TRAJECTORY = uj.exact(MODEL, MOVES, STATE, [0.0, 1.0], "log_norm", states=True)
ODD: tuple[Callable[[], Any], ...] = (
    lambda: iter([0.0, 1.0]),
    *(functools.partial(lambda value: value, value) for value in (
        None, True, 3, -1, 0, 1.5, float("nan"), float("inf"), "text", "", b"x", np.str_("log_norm"), [], [1], [2, 1],
        (),
        {}, {"a": 1}, {1}, object(), len, np.ones(2), np.ones((2, 2)), [[1], [1, 2]], np.array("x"),
        np.array([None, 1], object), jnp.ones(3), KEY, MODEL, CLASSES, STATE, MOVES, uj.Flow, TRAJECTORY,
        pathlib.Path("x.npy"), 10**30, 1 + 2j, np.float16(1), np.array(1.0), optax.adam(0.1), optax.lbfgs(), slice(3),
        datetime.datetime(2020, 1, 1), np.datetime64("2020-01-01"), pandas.Series([1.0, 2.0]), uj.cosine(0.1, 3),
        losses.CrossEntropy(), Kernel(np.eye(2)), ["a", "b"], {"log_norm": None}, [[1e300]], types, ...,
        uj.Parameter("x", 1.0, lambda problem, value: problem), jnp.exp, np.ma.masked_array([1.0, 2.0], [True, False]),
        -np.ones(2), np.full((2, 2), np.nan), jnp.zeros((0,)), np.array([0, 1]), range(2), frozenset({"log_norm"}),
    )),
)  # fmt: skip

PROBLEM = {"model": MODEL, "dynamics": MOVES, "state": STATE}
RUNNING = {**PROBLEM, "times": [0.0, 1.0], "observe": "log_norm"}
DECAYED = {"labels": CLASSES, "dim": 2, "decay": 0.1, "gamma": None, "loss": None}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "simulate": (uj.simulate, {**RUNNING, "states": False, "target": "top", "precision": None, "reduce": True,
                               "adjoint": None}),
    "descend": (uj.simulate, {**RUNNING, "dynamics": uj.Descent(0.1), "times": [0, 1], "reduce": True}),
    "exact": (uj.exact, {**RUNNING, "states": False, "target": "top", "precision": None}),
    "limit": (uj.limit, {**PROBLEM, "target": "top", "precision": None}),
    "event_time": (uj.event_time, {**PROBLEM, "event": "log_norm", "level": 1.0, "times": [0.0, 1.0],
                                   "direction": "above", "method": "exact", "target": "top"}),
    "sensitivity": (uj.sensitivity, {**RUNNING, "parameters": ["eta"], "order": 1, "mode": "auto", "sources": "exact"}),
    "limit_sensitivity": (uj.limit_sensitivity, {**PROBLEM, "parameters": ["gamma"], "target": "top"}),
    "push_forward": (uj.push_forward, {**PROBLEM, "times": [0.0, 1.0], "tangent": STATE}),
    "lyapunov": (uj.lyapunov, {**PROBLEM, "until": 1.0, "count": 1, "segments": 2, "transient": None, "seed": 0}),
    "exact_exponents": (uj.exact_exponents, {"model": MODEL, "dynamics": MOVES, "count": None}),
    "hessian_spectrum": (uj.hessian_spectrum, {"model": MODEL, "states": STATE, "count": 1, "tolerance": 0.0}),
    "observe_state": (uj.observe_state, {"model": MODEL, "state": STATE, "observe": "norm"}),
    "verify": (uj.verify, {"run": TRAJECTORY, "truth": TRAJECTORY}),
    "one_sided": (uj.one_sided, {"function": jnp.sin, "x": 1.0, "least": -1.0}),
    "Flow": (uj.Flow, {"solver": None, "rtol": None, "atol": None, "max_steps": 10, "steady": False}),
    "Descent": (uj.Descent, {"nesterov": False, "optimizer": None}),
    "Optimizer": (functools.partial(uj.Optimizer, optax.adamw), {"learning_rate": 0.1, "b1": 0.9, "nesterov": False,
                                                                 "mask": None}),
    "unconstrained": (uj.unconstrained, {"labels": CLASSES, "dim": 2, "gamma": None, "loss": None, "bias": False}),
    "regularized": (uj.regularized, {**DECAYED, "bias": False}),
    "anchored": (uj.anchored, DECAYED),
    "frozen": (uj.frozen, {**DECAYED, "bias": False}),
    "spherical": (uj.spherical, {**DECAYED, "rescale": 0, "free_prototypes": False}),
    "ntk_invariant": (uj.ntk_invariant, {**DECAYED, "kernel": np.eye(2), "bias": False}),
    "replace a model": (MODEL.replace, {"labels": CLASSES, "loss": "mse", "dim": 2, "decay": 0.1, "bias": False,
                                        "kernel": None, "features_move": True}),
    "replace labels": (CLASSES.replace, {"index": [0, 1], "weights": [0.5, 0.5], "targets": None, "clean": None}),
    "Labels": (uj.Labels, {"index": [0, 1], "weights": [0.5, 0.5], "targets": None, "classes": 2, "balanced": None}),
    "balanced": (uj.balanced, {"classes": 2, "per_class": 1, "order": "blocks"}),
    "from_counts": (uj.from_counts, {"counts": [1, 2]}),
    "from_labels": (uj.from_labels, {"index": [0, 1], "classes": 2}),
    "long_tailed": (uj.long_tailed, {"classes": 3, "largest": 5, "ratio": 2.0}),
    "step_imbalanced": (uj.step_imbalanced, {"classes": 3, "largest": 5, "ratio": 2.0, "majority": 1}),
    "soft": (uj.soft, {"targets": np.eye(2), "truth": None}),
    "init": (MODEL.init, {"key": KEY, "features": "normal", "prototypes": None, "bias": None, "scale": 1.0,
                          "precision": None}),
    "weighted": (CLASSES.weighted, {"classes": [1.0, 2.0], "samples": [1.0, 2.0], "normalise": True}),
    "symmetric_noise": (CLASSES.symmetric_noise, {"rate": 0.1, "key": None}),
    "smoothed": (CLASSES.smoothed, {"amount": 0.1}),
    "transition": (CLASSES.transition, {"table": np.eye(2), "key": None}),
    "constant": (uj.constant, {"value": 1.0}),
    "cosine": (uj.cosine, {"peak": 1.0, "horizon": 2.0, "floor": 0.0}),
    "piecewise": (uj.piecewise, {"values": [1.0, 2.0], "boundaries": [1.0]}),
    "warmup": (uj.warmup, {"length": 1.0, "schedule": 1.0, "start": 0.0}),
    "join": (uj.join, {"schedules": [1.0, 2.0], "boundaries": [1.0]}),
    "numeric": (uj.numeric, {"function": jnp.exp, "breaks": ()}),
    "a schedule": (uj.cosine(1.0, 2.0), {"t": 1.0}),
    "logspaced": (uj.logspaced, {"first": 1, "last": 10, "count": 3}),
    "steps": (uj.steps, {"last": 10, "count": 3}),
    "rescale_by_feature_norm": (uj.rescale_by_feature_norm, {"exponent": 1, "features": "H"}),
    "last": (TRAJECTORY.last, {"name": "log_norm"}),
    "as_loss": (losses.as_loss, {"loss": "mse"}),
    "unhinged": (losses.unhinged, {"logits": np.zeros((2, 2)), "targets": [0, 1], "gamma": 1.0, "weights": 1.0}),
    "focal": (losses.focal, {"logits": np.zeros((2, 2)), "targets": [0, 1], "focusing": 2.0}),
    "hinge": (losses.hinge, {"logits": np.zeros((2, 2)), "targets": [0, 1], "margin": 1.0}),
    "Parameter": (uj.Parameter, {"name": "x", "value": 1.0, "put": len}),
    "design": (uj.design, {"plan": None}),
    "sweep": (uj.sweep, {"plan": None, "store": "nowhere"}),
    "open_sweep": (uj.open_sweep, {"store": "nowhere"}),
    "citation": (uj.citation, {"used": None}),
}  # fmt: skip
HEAVY = ("mode", "order", "adjoint", "states", "reduce")
"""Arguments that compile another program where they are right."""


def call(draw: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A public function and its arguments, changed in one or two places."""
    names = list(CALLS)
    name = names[draw.integers(len(names))]
    arguments = dict(CALLS[name][1])
    for _ in range(1 + draw.integers(2)):
        which = list(arguments)[draw.integers(len(arguments))]
        arguments[which] = ODD[draw.integers(len(ODD))]()
    return name, arguments


def answer(name: str, arguments: dict[str, Any]) -> None:
    """Make the call, and look at a run that comes back."""
    found = CALLS[name][0](**arguments)
    for run in found if isinstance(found, tuple) else (found,):
        if isinstance(run, uj.Trajectory):
            look(run)


# --- verdicts -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one: "refused", "accepted" or a miss, and why."""

    kind: str
    number: int
    what: str
    outcome: str
    why: str = ""

    @property
    def missed(self) -> bool:
        return self.outcome not in ("refused", "accepted")


@functools.cache
def _raises(file: str) -> tuple[tuple[int, int], ...]:
    tree = ast.parse(pathlib.Path(file).read_text(encoding="utf-8"))
    return tuple((n.lineno, n.end_lineno or n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise))


def refusal(error: BaseException) -> str:
    """Why an error is no refusal, or nothing."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if last.name == "placed" and error.__cause__ is not None:  # which says where in a file another error comes from
        return refusal(error.__cause__)
    line, text = last.lineno or 0, str(error)
    ours = last.filename.startswith(ROOT) and any(first <= line <= end for first, end in _raises(last.filename))
    if not (ours and isinstance(error, (ValueError, TypeError, KeyError, OSError))):
        return f"{type(error).__name__} in {pathlib.Path(last.filename).name}:{line}: {' '.join(text.split())[:200]}"
    if "\n" in text or len(text) > LONGEST:
        return f"a message of {len(text)} characters and {text.count(chr(10)) + 1} lines: {text[:200]!r}"
    return ""


def judged(kind: str, number: int, seed: int) -> Verdict:
    """Draw one and try it."""
    draw = np.random.default_rng([seed, number, kind == "call"])
    name, given = (call if kind == "call" else configuration)(draw)
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (answer if kind == "call" else read)(name, given)
        outcome, why = "accepted", ""
    except AssertionError as error:
        outcome, why = "wrong", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        why = refusal(error)
        outcome = "from inside" if why else "refused"
    took = time.process_time() - begin
    if took > SECONDS and outcome in ("accepted", "refused"):
        outcome, why = "slow", f"{took:.0f} s of the processor"
    return Verdict(kind, number, f"{name} {shown(given)}", outcome, why)


def shown(given: dict[str, Any]) -> str:
    """What was given, in a few words."""
    return " ".join(repr(given).split())[:700]


def verdicts(configurations: int, calls: int, seed: int = 0) -> list[Verdict]:
    """What became of the first so many of each kind."""
    return [
        judged(kind, number, seed)
        for kind, count in (("configuration", configurations), ("call", calls))
        for number in range(count)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configurations", type=int, default=300)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs=2, metavar=("KIND", "NUMBER"))
    options = parser.parse_args()
    if options.only:
        found = [judged(options.only[0], int(options.only[1]), options.seed)]
    else:
        found = verdicts(options.configurations, options.calls, options.seed)
    for verdict in found:
        if verdict.missed or options.only:
            print(f"{verdict.kind} {verdict.number}: {verdict.outcome}: {verdict.why}\n    {verdict.what}")
    print(", ".join(f"{count} {what}" for what, count in collections.Counter(v.outcome for v in found).items()))
    return int(any(verdict.missed for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
