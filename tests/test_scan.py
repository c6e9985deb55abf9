"""The loop of steps: reads at any distances, undone blocks, and no question to the host where reads are regular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import _loop

MODULUS = 1009


def step(carry, k):
    """A sequence that depends on the order and number of steps, in whole numbers."""
    return {"x": (carry["x"] * 7 + k + 1) % MODULUS, "y": carry["y"] + 0.5}


def by_hand(updates):
    x, seen = 3, [3]
    for k in range(updates):
        x = (x * 7 + k + 1) % MODULUS
        seen.append(x)
    return np.array(seen)


def counted(times, start=0, **more):
    reads = _loop.reads_at(np.asarray(times), start)
    carry = {"x": jnp.asarray(3), "y": jnp.asarray(0.0)}
    return reads, *jax.jit(lambda carry: _loop.run(step, carry, reads, lambda carry: carry, **more))(carry)


@pytest.mark.parametrize(
    ("times", "regular"),
    [
        (range(0, 201, 10), True),
        (range(10, 201, 10), True),
        ([500], True),
        ([0, 96], True),
        ([0], False),
        ([20, 40, 61], False),
        (range(0, 40, 2), False),  # too close
        ([0, 10_007], False),  # a prime: no blocks
        ([3, 5, 300], False),
    ],
)
def test_reads_equal_a_plain_loop_at_any_distances(times, regular):
    times = np.asarray(times)
    reads, last, values, filled = counted(times)
    assert (reads.slots is None) is regular
    assert np.array_equal(values["x"], by_hand(times[-1])[times])
    assert np.array_equal(values["y"], 0.5 * times) and bool(filled.all())
    assert int(last["x"]) == by_hand(times[-1])[-1]


def test_reads_count_from_the_start_given():
    reads, _, values, _ = counted([70, 80, 90], start=60)
    assert reads.every == 10 and np.array_equal(values["x"], by_hand(30)[10::10])


@pytest.mark.parametrize("times", [range(0, 241, 24), [0, 24, 48, 100, 241]])
def test_tidying_happens_often_enough(times):
    def tidy(carry):  # what was not tidied for more than m steps would be seen to grow
        return {**carry, "y": jnp.zeros(())}

    _, _, values, _ = counted(times, tidy=(6, tidy))
    assert float(values["y"].max()) <= 0.5 * 6


@pytest.mark.parametrize("times", [range(0, 401, 20), [0, 20, 41, 399]])
def test_a_block_that_does_not_settle_is_undone_and_ends_the_loop(times):
    def settle(before, after):
        return after, after["y"] < 100  # 200 steps

    _, last, values, filled = counted(times, settle=settle)
    times = np.asarray(times)
    assert bool(filled[0]) and not bool(filled[-1])
    assert bool(filled[times < 160].all()) and not bool(filled[times >= 200].any())
    assert np.array_equal(np.isnan(values["y"]), ~np.asarray(filled))
    assert np.array_equal(values["x"][filled], by_hand(400)[times][np.asarray(filled)])
    assert float(last["y"]) < 100
    assert int(last["x"]) == by_hand(400)[int(2 * float(last["y"]))]


@pytest.mark.parametrize(
    "make", [pytest.param(uj.unconstrained, marks=pytest.mark.long), uj.spherical], ids=["unconstrained", "spherical"]
)
def test_regular_reads_equal_irregular_ones_and_their_derivatives(make):
    model = make(uj.balanced(classes=3, per_class=2), 7)
    with jax.enable_x64(True):
        state = model.init(jax.random.key(0), precision="float64")

        def last(eta, times):
            return uj.simulate(model, uj.Descent(eta), state, times, "distance")["distance"][-1]

        both = [jax.jit(jax.value_and_grad(last), static_argnums=1)(0.1, times) for times in ((0, 60), (0, 7, 60))]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-12)


@pytest.mark.parametrize(("times", "asks"), [((0, 40, 80), False), ((0, 9, 80), True)])
def test_a_loop_with_regular_reads_asks_nothing(times, asks):
    model = uj.unconstrained(uj.balanced(classes=3, per_class=2), 7)
    state = model.init(jax.random.key(0))
    for observe in ("norm", "distance"):
        program = jax.make_jaxpr(lambda state, o=observe: uj.simulate(model, uj.Descent(0.1), state, times, o)[o])
        assert branches_in_loops(program(state).jaxpr) is asks


def equations(jaxpr):
    """Every equation, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):  # a Jaxpr, closed or not
                yield from equations(inner)


def branches_in_loops(jaxpr):
    """Whether an innermost loop that carries something holds a branch; a map, over which reads run, carries nothing."""
    found = False
    for loop in equations(jaxpr):
        if loop.primitive.name == "scan" and loop.params["num_carry"] > 0:
            body = {equation.primitive.name for equation in equations(loop.params["jaxpr"].jaxpr)}
            found = found or ("scan" not in body and "cond" in body)
    return found


@pytest.mark.parametrize("count", [1, 255, 256, 257, 501])
@pytest.mark.parametrize("together", [1, 16])
def test_moments_that_are_read_together_are_read_in_order(count, together):
    """Those that fill up the last block are not kept, nor counted by a derivative."""
    moments = {"x": jnp.linspace(1.0, 2.0, count), "k": jnp.arange(count)}

    def read(moment):
        return {"root": jnp.sqrt(moment["x"]) * jnp.ones(3), "k": moment["k"]}

    got = jax.jit(lambda moments: _loop.read_each(read, moments, together))(moments)
    np.testing.assert_array_equal(got["k"], moments["k"])
    np.testing.assert_allclose(got["root"], np.sqrt(moments["x"])[:, None] * np.ones(3), rtol=1e-6)
    total = jax.grad(lambda x: jnp.sum(_loop.read_each(read, moments | {"x": x}, together)["root"]))(moments["x"])
    np.testing.assert_allclose(total, 1.5 / np.sqrt(moments["x"]), rtol=1e-6)


@pytest.mark.parametrize("solve", [uj.simulate, uj.exact])
def test_an_observable_that_cannot_be_mapped_is_read_at_many_times(solve):
    model = uj.regularized(uj.balanced(3, 2), 4, decay=0.1)

    def on_the_host(model, state):
        shape = jax.ShapeDtypeStruct((), state.W.dtype)
        return jax.pure_callback(lambda W: np.abs(W).sum(dtype=W.dtype), shape, state.W)

    times, start = np.linspace(0.0, 1.0, 257), model.init(jax.random.key(0))
    run = solve(model, uj.Flow(), start, times, {"seen": on_the_host, "same": lambda model, state: abs(state.W).sum()})
    np.testing.assert_allclose(run["seen"], run["same"], rtol=1e-5)
