"""How much a program is optimized: it depends on the size of the problem, on its work, and on who compiles it."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax._request import compiling
from unhinged_jax.losses import CrossEntropy

MODEL = uj.regularized(uj.from_counts([6, 4, 2]), 4, decay=0.1)
START = MODEL.init(jax.random.key(0))
MANY = np.linspace(0.0, 1.0, 30_000)
FLOW, DESCENT = uj.Flow(), uj.Descent(0.1)


@pytest.fixture
def chosen(monkeypatch):
    """The options of every program that is run."""
    found, choose = [], compiling._options_for

    def recorded(args, light):
        found.append(choose(args, light))
        return found[-1]

    monkeypatch.setattr(compiling, "_options_for", recorded)
    return found


@pytest.mark.parametrize(
    ("solve", "dynamics", "times", "want"),
    [
        (uj.exact, FLOW, [0.0, 1.0], compiling._NONE),
        (uj.exact, FLOW, MANY, compiling._LESS),
        (uj.exact, DESCENT, [0, 10**6], compiling._NONE),  # at once
        (uj.simulate, FLOW, [0.0, 1.0], compiling._NONE),
        (uj.simulate, FLOW, MANY, compiling._LESS),
        (uj.simulate, DESCENT, [0, 100], compiling._NONE),
        (uj.simulate, DESCENT, [0, 100_000], compiling._LESS),  # some 30 numbers each
    ],
)
def test_programs_with_little_work_are_not_optimized(chosen, solve, dynamics, times, want):
    solve(MODEL, dynamics, START, times, "norm")
    assert chosen == [want]


def test_other_losses_and_large_problems_are_optimized(chosen):
    for loss, dynamics in ((CrossEntropy(), DESCENT), (CrossEntropy(), FLOW)):
        uj.simulate(MODEL.replace(loss=loss), dynamics, START, [0, 1], "norm")
    large = uj.regularized(uj.balanced(2, 20), 1_000, decay=0.1)
    uj.exact(large, FLOW, large.init(jax.random.key(0)), [0.0, 1.0], "norm")
    assert chosen == [(), compiling._OLDER_KERNELS, ()]


def test_what_is_drawn_is_one_path_whoever_compiles_it(chosen):
    drawn = uj.Descent(0.1, batch=2)
    uj.simulate(MODEL, drawn, START, [0, 10], "norm", key=jax.random.key(0))
    assert chosen == [compiling._LESS]


def test_inside_a_transformation_jax_decides(chosen):
    def norm(decay):
        return uj.exact(MODEL.replace(decay=decay), FLOW, START, [1.0], "norm").last("norm")

    jax.eval_shape(norm, 0.1)
    jax.eval_shape(jax.grad(norm), 0.1)
    jax.vmap(norm)(np.array([0.1, 0.2]))
    assert set(chosen) == {()}
