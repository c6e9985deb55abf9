"""The way of a simulation, as a table: which form, which columns, which solver, for which problem."""

import dataclasses

import diffrax
import jax
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.observables import resolve
from unhinged_jax.simulation.choose import KEPT, LARGE, MANY, Choice, choose

EVEN, UNEVEN = uj.balanced(3, 2), uj.from_counts([3, 2, 1])
SOFT = uj.soft(np.random.default_rng(0).dirichlet(np.ones(3), size=6))
KERNEL = np.eye(6) + 0.5
FLOW, DESCENT, DRAWN = uj.Flow(), uj.Descent(0.1), uj.Descent(0.1, batch=2)
DISTANCE, LOSS = ("log_distance",), ("loss", "log_norm")


def chosen(model, dynamics, observe=LOSS, times=5, state=None, **settings):
    """The choice but for its solver and whether it reads late."""
    state = model.init(jax.random.key(0)) if state is None else state
    plan = resolve(list(observe), model, settings.get("reduce", True))
    return choose(model, dynamics, plan, times, state, **settings)


def static(choice):
    """The choice without what depends on the solver and on the machine."""
    return dataclasses.replace(choice, solver=None, late=False, together=1)


GROUP = uj.unconstrained(EVEN, 4).init(jax.random.key(0), group="cyclic", precision="float64")
PAIR = Choice("linear", summed=True, propagator="pair", biases=False, scores=True, compressed=True)
TABLE = {
    "balanced classes": (uj.unconstrained(EVEN, 4), DESCENT, {}, PAIR),
    "with distances": (
        uj.unconstrained(EVEN, 4), DESCENT, {"observe": DISTANCE}, dataclasses.replace(PAIR, leading=True),
    ),
    "with states": (uj.unconstrained(EVEN, 4), DESCENT, {"states": True}, dataclasses.replace(PAIR, compressed=False)),
    "unequal classes, narrow": (uj.unconstrained(UNEVEN, 4), DESCENT, {}, Choice("linear", summed=True, biases=False)),
    "unequal classes, wide": (
        uj.unconstrained(UNEVEN, 7), DESCENT, {}, Choice("linear", True, "identity", biases=False, scores=True),
    ),
    "soft targets": (uj.unconstrained(SOFT, 7), DESCENT, {}, Choice("linear", biases=False)),
    "a kernel": (uj.ntk_invariant(UNEVEN, 4, KERNEL), DESCENT, {}, Choice("linear", biases=False)),
    "a kernel between coordinates": (
        uj.ntk_invariant(UNEVEN, 1, np.eye(6) + 0.5), DESCENT, {}, Choice("linear", biases=False),
    ),
    "moving biases": (uj.unconstrained(SOFT, 7, bias=True), DESCENT, {}, Choice("linear")),
    "momentum": (uj.unconstrained(SOFT, 7), uj.Descent(0.1, momentum=0.9), {}, Choice("linear")),
    "anchored": (uj.anchored(UNEVEN, 4), DESCENT, {}, Choice("linear", summed=True, biases=False)),
    "the sphere": (uj.spherical(UNEVEN, 4), DESCENT, {}, Choice("sphere")),
    "the sphere, free prototypes": (uj.spherical(UNEVEN, 4, free_prototypes=True), DESCENT, {}, Choice("dense")),
    "cross-entropy": (uj.unconstrained(UNEVEN, 8, loss="cross_entropy"), DESCENT, {}, Choice("columns")),
    "cross-entropy, many times of a descent": (
        uj.unconstrained(UNEVEN, 8, loss="cross_entropy"), DESCENT, {"times": MANY}, Choice("columns"),
    ),
    "cross-entropy, many times of a flow": (
        uj.unconstrained(UNEVEN, 8, loss="cross_entropy"), FLOW, {"times": MANY}, Choice("logits"),
    ),
    "cross-entropy, few times of a flow": (
        uj.unconstrained(UNEVEN, 8, loss="cross_entropy"), FLOW, {"times": MANY - 1}, Choice("columns"),
    ),
    "cross-entropy, collapse asked for": (
        uj.unconstrained(UNEVEN, 8, loss="cross_entropy"), FLOW, {"times": MANY, "observe": ("nc1",)},
        Choice("columns"),
    ),
    "cross-entropy, narrow": (
        uj.unconstrained(UNEVEN, 4, loss="cross_entropy"), FLOW, {"times": MANY}, Choice("columns"),
    ),
    "cross-entropy, a start that a group permutes": (
        uj.unconstrained(EVEN, 4, loss="cross_entropy"), FLOW, {"state": GROUP}, Choice("group", group="cyclic"),
    ),
    "the same with a velocity": (
        uj.unconstrained(EVEN, 4, loss="cross_entropy"), DESCENT, {"state": GROUP, "memory": {}}, Choice("columns"),
    ),
    "the same, an optimiser": (
        uj.unconstrained(EVEN, 4, loss="cross_entropy"), uj.Descent(optimizer=optax.adam(0.1)), {"state": GROUP},
        Choice("dense"),
    ),
    "the same, a linear loss": (uj.unconstrained(EVEN, 4), DESCENT, {"state": GROUP}, PAIR),
    "not reduced": (uj.unconstrained(EVEN, 4), DESCENT, {"reduce": False}, Choice("dense")),
    "draws": (uj.unconstrained(EVEN, 4), DRAWN, {}, Choice("sampled", scaled=True)),
    "draws, cross-entropy": (uj.unconstrained(EVEN, 4, loss="cross_entropy"), DRAWN, {}, Choice("sampled")),
    "draws, wide": (
        uj.unconstrained(EVEN, 18), DRAWN, {}, Choice("sampled", compressed=True, scaled=True, spanned=True),
    ),
    "draws, wide, with states": (
        uj.unconstrained(EVEN, 18), DRAWN, {"states": True}, Choice("sampled", scaled=True, spanned=True),
    ),
    "draws, wide, mapped over": (
        uj.unconstrained(EVEN, 18), DRAWN, {"fixed": False}, Choice("sampled", scaled=True),
    ),
    "draws, wide, an optimiser": (
        uj.unconstrained(EVEN, 18), uj.Descent(optimizer=optax.adam(0.1), batch=2), {}, Choice("sampled"),
    ),
    "draws, not reduced": (uj.unconstrained(EVEN, 18), DRAWN, {"reduce": False}, Choice("sampled")),
    "an optimiser": (uj.unconstrained(EVEN, 4), uj.Descent(optimizer=optax.adam(0.1)), {}, Choice("dense")),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_choice_of(name):
    model, dynamics, settings, want = TABLE[name]
    assert static(chosen(model, dynamics, **settings)) == want


def test_what_a_run_begins_with_counts():
    model, state = uj.unconstrained(EVEN, 4), uj.unconstrained(EVEN, 4).init(jax.random.key(0))
    velocity = {"H": state.H, "W": state.W, "b": state.b}
    assert static(chosen(model, DESCENT, memory=velocity)) == Choice("linear", summed=True, biases=False)  # no pair
    uneven = uj.unconstrained(UNEVEN, 4)
    flat = np.ones((6, 4)), np.ones((3, 4))  # no differences between classes
    lacking = chosen(uneven, DESCENT, state=uj.State(*flat, np.zeros(3)))
    assert lacking.absent is False  # what is shared is no mode of unequal classes
    assert chosen(uneven, DESCENT, state=uj.State(0 * flat[0], 0 * flat[1], np.zeros(3))).absent is False


def test_gaps_of_a_run_that_goes_on_are_not_compressed():
    model = uj.unconstrained(EVEN, 4)
    assert chosen(model, DESCENT, ("gap_H",), goes_on=False).compressed
    assert not chosen(model, DESCENT, ("gap_H",), goes_on=True).compressed


def test_the_solver_follows_the_size_and_the_tolerance():
    def solver(dim, **settings):
        model = uj.unconstrained(UNEVEN, dim, loss="cross_entropy")
        empty = uj.State(np.zeros((6, dim), np.float32), np.zeros((3, dim), np.float32), np.zeros(3, np.float32))
        return chosen(model, uj.Flow(**settings), state=empty)

    small, large = solver(4), solver(LARGE // 9 + 1)
    assert isinstance(small.solver, diffrax.Dopri8) and small.late
    assert isinstance(large.solver.solver, diffrax.Tsit5)
    assert isinstance(solver(LARGE // 9 + 1, rtol=1e-12).solver, diffrax.Dopri8)
    assert isinstance(solver(4, solver=diffrax.Heun()).solver, diffrax.Heun)
    assert 5 * 4 * 9 * (LARGE // 9 + 1) <= KEPT and large.late
    assert not solver(KEPT // 9).late


def test_a_run_says_what_was_chosen():
    model = uj.unconstrained(EVEN, 4)
    state = model.init(jax.random.key(0))
    run = uj.simulate(model, FLOW, state, [1.0], DISTANCE)
    assert "form: class sums, as two 2 x 2 matrices that multiply the start, leading part apart, " in repr(run)
    assert "Dopri8" in repr(run)
    dense = uj.simulate(model, DESCENT, state, [1], LOSS, reduce=False)
    assert "form: dense, gradient of the loss\n" in repr(dense)
    assert "form:" not in repr(uj.exact(model, DESCENT, state, [1], LOSS))


def test_runs_that_took_different_ways_are_stacked():
    model = uj.unconstrained(EVEN, 4)
    state = model.init(jax.random.key(0))
    runs = [uj.simulate(model, DESCENT, state, [1, 2], LOSS, reduce=reduce) for reduce in (True, False)]
    both = jax.tree.map(lambda *parts: np.stack(parts), *runs)
    np.testing.assert_allclose(both["loss"][0], both["loss"][1], rtol=1e-5)
