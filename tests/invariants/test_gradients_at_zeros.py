"""Derivatives of everything that is observed at states of zeros, beside central differences of the same run.

Where an observable jumps or has a kink there is no derivative. A jump (an accuracy, a direction of nothing) has the
derivative 0 of what is constant around; at a kink (a norm of 0, a least margin) it lies between those of both sides.

    python tests/invariants/test_gradients_at_zeros.py

looks at every case, dynamics, solver, mode and list of times; the tests take some of them.
"""

import itertools

import diffrax
import jax
import numpy as np
import pytest

import unhinged_jax as uj

EQUAL, UNEQUAL, DIM = uj.balanced(3, 2), uj.from_counts([3, 2, 1]), 4
CASES = {
    "regularized": lambda decay, gamma: uj.regularized(EQUAL, DIM, decay=decay, gamma=gamma, bias=True),
    "unequal": lambda decay, gamma: uj.regularized(UNEQUAL, DIM, decay=decay, gamma=gamma, bias=True),
    "unconstrained": lambda decay, gamma: uj.unconstrained(EQUAL, DIM, gamma=gamma, bias=True),
    "anchored": lambda decay, gamma: uj.anchored(EQUAL, DIM, decay=decay, gamma=gamma),
    "frozen": lambda decay, gamma: uj.frozen(UNEQUAL, DIM, decay=decay, gamma=gamma, bias=True),
    "spherical": lambda decay, gamma: uj.spherical(EQUAL, DIM, decay=decay, gamma=gamma),
}
DYNAMICS = {
    "flow": lambda eta: uj.Flow(eta, rtol=1e-12, atol=1e-12),
    "descent": lambda eta: uj.Descent(eta),
    "momentum": lambda eta: uj.Descent(eta, momentum=0.5),
}
# Factors on H, W and b.
POINTS = {"W": (1, 0, 1), "H": (0, 1, 1), "b": (1, 1, 0), "H and W": (0, 0, 1), "all": (0, 0, 0)}
PARAMETERS = ("H", "W", "b", "decay", "gamma", "eta")
AT, STEP = np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.3]), 1e-5


def parts():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in ((6, DIM), (3, DIM), (3,)) * 2]


def runner(case, dynamics, solve, times, names, adjoint=None):
    """(parameters, start) -> the last and the first values observed; the first three parameters move the start."""
    pushes = parts()[3:]
    settings = {} if adjoint is None else {"adjoint": adjoint}

    def run(at, start):
        moved = [x + by * push for x, by, push in zip(start, at[:3], pushes, strict=True)]
        model, motion = CASES[case](at[3], at[4]), DYNAMICS[dynamics](at[5])
        found = solve(model, motion, uj.State(*moved), times, names, **settings).observables
        return [{name: values[i] for name, values in found.items()} for i in ([-1, 0] if len(times) > 1 else [-1])]

    return run


def faults(case, dynamics, solve, times, names, mode):
    """(zero, observable, parameter, derivative, differences to the left and to the right) wherever they disagree."""
    forward = mode is jax.jacfwd and dynamics == "flow" and solve is uj.simulate
    slope_of = runner(case, dynamics, solve, times, names, diffrax.ForwardMode() if forward else None)
    value = jax.jit(runner(case, dynamics, solve, times, names))
    slope, found, start = jax.jit(mode(slope_of)), [], parts()[:3]
    steps = STEP * np.eye(len(AT))
    for zero, factors in POINTS.items():
        if case == "spherical" and 0 in factors[:2]:
            continue  # directions of nothing
        at = [x * factor for x, factor in zip(start, factors, strict=True)]
        here, slopes = value(AT, at), slope(AT, at)
        sides = [(value(AT - step, at), value(AT + step, at)) for step in steps]
        for i, now in enumerate(here):
            for name, middle in now.items():
                got = np.asarray(slopes[i][name])
                if np.isnan(middle):
                    continue
                if not np.all(np.isfinite(got)):
                    found.append((zero, name, "not finite", got))
                    continue
                for k, (before, after) in enumerate(sides if np.isfinite(middle) else ()):
                    left, right = (middle - before[i][name]) / STEP, (after[i][name] - middle) / STEP
                    jumps = max(abs(left), abs(right)) * STEP > 0.01 * max(1.0, abs(middle))
                    close = 3e-5 * max(1.0, abs(left), abs(right))
                    kink = abs(right - left) > 1e-3 * max(1.0, abs(left))
                    smooth = abs(got[k] - (left + right) / 2) <= close
                    between = kink and min(left, right) - close <= got[k] <= max(left, right) + close
                    if not (jumps or smooth or between):
                        found.append((zero, name, PARAMETERS[k], float(got[k]), float(left), float(right)))
    return found


FEW = ["log_norm", "accuracy_margin", "energy_3", "distance"]


@pytest.mark.long
@pytest.mark.parametrize("solve", [uj.exact, uj.simulate])
def test_derivatives_at_zeros(solve):
    with jax.enable_x64(True):
        assert faults("regularized", "descent", solve, [0, 5], FEW, jax.jacrev) == []


CHOSEN = [
    ("regularized", "momentum", uj.simulate, jax.jacrev, [0, 5]),
    ("regularized", "flow", uj.exact, jax.jacfwd, [5]),
    ("unequal", "descent", uj.exact, jax.jacrev, [0, 5]),
    ("unequal", "flow", uj.simulate, jax.jacfwd, [5]),
    ("unconstrained", "descent", uj.simulate, jax.jacrev, [0, 5]),
    ("anchored", "momentum", uj.exact, jax.jacrev, [5]),
    ("frozen", "descent", uj.simulate, jax.jacfwd, [0, 5]),
    ("spherical", "descent", uj.exact, jax.jacrev, [0, 5]),
]
"""Every case, dynamics, solver, mode and list of times; all of them together take hours to compile."""


@pytest.mark.long
@pytest.mark.parametrize(("case", "dynamics", "solve", "mode", "times"), CHOSEN)
def test_derivatives_at_zeros_of_everything(case, dynamics, solve, mode, times):
    with jax.enable_x64(True):
        assert faults(case, dynamics, solve, times, uj.all_observables, mode) == []


def main():
    """Look at everything there is, and print what is wrong."""
    modes, times = (jax.jacrev, jax.jacfwd), ([0, 5], [5])
    for one in itertools.product(CASES, DYNAMICS, (uj.exact, uj.simulate), times, modes):
        case, dynamics, solve, read, mode = one
        if (case, dynamics, solve) == ("spherical", "momentum", uj.exact):  # has no closed form
            continue
        with jax.enable_x64(True):
            wrong = faults(case, dynamics, solve, read, uj.all_observables, mode)
        print(case, dynamics, solve.__name__, mode.__name__, read, wrong or "right", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
