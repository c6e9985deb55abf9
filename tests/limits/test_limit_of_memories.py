"""`limit` of descents with a memory and of averages, against loops in NumPy that keep every state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_loops import KINDS, aggregated, lookahead, moving, optimistic, polyak, quasi, schedule_free

import unhinged_jax as uj
from unhinged_jax.limits.factors import factor

R1, R2 = 0.8, 1.2
GROWS = uj.regularized(uj.from_counts([3, 2, 1]), 3, decay=(0.05, 0.02), gamma=0.3, bias=True)
ONE = GROWS.replace(decay_H=0.3, decay_W=0.28)
DIES = GROWS.replace(decay_H=0.5, decay_W=0.4)
BIAS = np.array([-1.0, 0.0, 1.0])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def start(model):
    return model.init(jax.random.key(0), precision="float64", bias=BIAS)


def generator(model):
    M = np.asarray(model.signal().dense("float64"))
    n, C = M.shape
    a, c = R1 * float(model.decay_H), R2 * float(model.decay_W)
    return np.block([[-a * np.eye(n), R1 * M], [R2 * M.T, -c * np.eye(C)]])


CASES = {
    **{f"{name}, grows": (GROWS, 0.3, *KINDS[name]) for name in KINDS},
    **{f"{name}, dies": (DIES, 0.3, *KINDS[name]) for name in KINDS if name != "schedule-free"},
    "a mean that remembers longer": (DIES, 0.3, uj.MovingAverage(0.99), lambda *given: moving(*given, 0.99)),
    "schedule-free, q = 1": (DIES, 0.3, uj.ScheduleFree(0.5), lambda *given: schedule_free(*given, 0.5)),
    "schedule-free, q = 2": (DIES, 0.3, uj.ScheduleFree(2 / 3), lambda *given: schedule_free(*given, 2 / 3)),
    "thrown, Lookahead": (DIES, 4.5, uj.Lookahead(3, 0.9), lambda *given: lookahead(*given, 3, 0.9)),
    "thrown, mean": (DIES, 4.5, uj.PolyakAverage(), polyak),
    "thrown, schedule-free": (DIES, 20.0, uj.ScheduleFree(0.5), lambda *given: schedule_free(*given, 0.5)),
    "thrown, optimistic": (DIES, 1.7, uj.Optimistic(0.9), lambda *given: optimistic(*given, 0.9)),
    "schedule-free, one grows": (ONE, 1.0, uj.ScheduleFree(0.3), lambda *given: schedule_free(*given, 0.3)),
    "mean, one grows": (ONE, 1.0, uj.PolyakAverage(), polyak),
    "no momentum, quasi": (DIES, 1.5, uj.QuasiHyperbolic(0.9, 0.0), lambda *given: quasi(*given, 0.9, 0.0)),
    "equal betas": (DIES, 1.5, uj.AggregatedMomentum((0.9, 0.9)), lambda *given: aggregated(*given, (0.9, 0.9))),
}
POWERS = {
    "polyak, grows": -1, "polyak, dies": -1, "mean, one grows": -1, "schedule-free, grows": 7 / 3 - 1,
    "schedule-free, q = 2": 1, "schedule-free, one grows": 3 / 7 - 1, "thrown, mean": -1,
}  # fmt: skip
"""Of the number of updates, beside the exponential."""
BEHIND = {"schedule-free, one grows": -6 / 7}
"""The same of the direction error."""
QUICK = ("aggregated, grows", "polyak, dies")


@pytest.mark.long_for("polyak, dies")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_a_long_loop_ends_as_the_limit_says(name):
    model, eta, memory, by_hand = CASES[name]
    found = uj.limit(model, uj.Descent(eta, R1, R2, memory=memory), start(model))
    K, Z = generator(model), np.vstack([start(model).H, start(model).W])
    slow = min(max(float(found.rate), 0.004), 2.0)
    early, late, last = (12 * round(turns / slow / 12) for turns in (6, 14, 22))
    path = by_hand(lambda x, k: eta * (K @ x), Z, last)
    logs = [np.log(np.linalg.norm(path[k])) for k in (late, last)]
    growth = (logs[1] - logs[0] - POWERS.get(name, 0) * np.log(last / late)) / (last - late)
    if 0 < float(found.angle) < 3 and memory != uj.Lookahead(3, 0.9):  # the norm swings, too
        assert float(found.exponent) == pytest.approx(growth, abs=1e-2)
        return
    rough = "free" in name and name != "schedule-free, q = 1"  # beside a power of k there is one of 1/k
    assert float(found.exponent) == pytest.approx(growth, rel=2e-2 if rough else 1e-5, abs=1e-6)
    direction = np.vstack([found.direction.H, found.direction.W])
    assert np.linalg.norm(direction) == pytest.approx(1, rel=1e-12)
    errors = [np.linalg.norm(path[k] / np.linalg.norm(path[k]) - direction) for k in (early, late)]
    assert errors[0] < 0.1 and errors[1] < 3e-3 * errors[0] + 1e-13, errors
    fall = (np.log(errors[0] / errors[1]) + BEHIND.get(name, 0) * np.log(late / early)) / (late - early)
    swings = name in ("quasi-hyperbolic, dies", "aggregated, dies")
    assert float(found.rate) == pytest.approx(fall, rel=0.2 if swings else 2e-2), errors


ROOTS = [
    uj.QuasiHyperbolic(0.9, 0.1), uj.QuasiHyperbolic(0.9, 0.7), uj.QuasiHyperbolic(0.9, 0.0),
    uj.QuasiHyperbolic(0.0, 0.5), uj.QuasiHyperbolic(0.9, 1.0), uj.QuasiHyperbolic(0.999, 0.7),
    uj.Optimistic(0.6), uj.Optimistic(1.0),
    uj.Lookahead(5, 0.5), uj.Lookahead(1, 0.3), uj.Lookahead(4, 0.9), uj.Lookahead(3, 1.0),
    uj.AggregatedMomentum((0.0, 0.9, 0.99)), uj.AggregatedMomentum((0.5,)), uj.AggregatedMomentum((0.9, 0.9, 0.9)),
    uj.AggregatedMomentum((0.0,)), uj.AggregatedMomentum((0.0, 0.5, 0.8, 0.9)),
]  # fmt: skip


def update_of(memory, push):
    """What an update, or the updates until a meeting, make of the slots of one mode, and their number."""
    made, steps = np.eye(len(memory.first)), getattr(memory, "steps", 1)
    for k in range(steps):
        how = memory.combined(jnp.asarray(k if steps > 1 else 1000))
        made = (np.asarray(how.keep) + push * np.outer(how.push, how.look)) @ made
    return made, steps


@pytest.mark.parametrize(
    "memory", [ROOTS[0], *(pytest.param(memory, marks=pytest.mark.long) for memory in ROOTS[1:])], ids=str
)
@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_root_that_counts_is_the_largest_of_those_that_a_start_has(memory, single):
    """Modulus, argument and sign, by all eigenvectors of the slots of a mode, for steps of all sizes."""
    sizes = np.geomspace(1e-6, 1e3, 60)
    pushes = np.concatenate([sizes, [0.0], -sizes])
    found = jax.jit(lambda node: factor(uj.Descent(1.0, memory=memory), node))(
        jnp.asarray(pushes, "float32" if single else float)
    )
    for push, log, angle, sign in zip(pushes, *map(np.asarray, found), strict=True):
        made, steps = update_of(memory, push)
        begin = np.array([1.0 + push, push] if isinstance(memory, uj.Optimistic) else memory.first, complex)
        values, vectors = np.linalg.eig(made)
        shares = vectors[0] * np.linalg.solve(vectors, begin)
        size = np.where(np.abs(shares) > 1e-9, np.abs(values), -1.0)
        place = np.argmax(size)
        slack = 2e-3 if single else 1e-9
        assert log == pytest.approx(np.log(size[place]) / steps, rel=slack, abs=slack * 1e-3), push
        if single:
            continue
        assert angle == pytest.approx(abs(np.angle(values[place])) / steps, abs=1e-6), push
        if abs(values[place].imag) < 1e-9 and not isinstance(memory, (uj.Lookahead, uj.Optimistic)):
            assert sign == np.sign(shares[place].real), push


NUMBERS = {
    "aggregated": lambda x: uj.AggregatedMomentum((0.0, x)), "moving": lambda x: uj.MovingAverage(0.9 + x / 10),
    "lookahead": lambda x: uj.Lookahead(3, x), "optimistic": uj.Optimistic,
    "quasi": lambda x: uj.QuasiHyperbolic(x, 0.6), "schedule-free": uj.ScheduleFree,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("model", [GROWS, DIES], ids=["grows", "dies"])
def test_derivatives_batches_precision_and_scale(name, model):
    """By differences; a batch of shape (2, 3); float32; starts of any size, and with the rows in another unit."""
    state = start(model)

    def numbers(point, state=state, model=model):
        eta, x, gamma = point
        found = uj.limit(model.replace(gamma=gamma), uj.Descent(eta, R1, R2, memory=NUMBERS[name](x)), state)
        return jnp.stack([found.exponent, found.rate])

    here = np.array([0.3, 0.72, 0.3])
    program = jax.jit(numbers)
    slopes = jax.jit(jax.jacfwd(numbers))(here)
    apart = [(program(here + 1e-6 * e) - program(here - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
    np.testing.assert_allclose(slopes, np.stack(apart, axis=1), rtol=1e-5, atol=1e-8)
    many = jnp.asarray(here) * (1 + jnp.arange(6.0).reshape(2, 3, 1) / 100)
    found = jax.vmap(jax.vmap(numbers))(many)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[1, 2], program(many[1, 2]), rtol=1e-12)

    memory = uj.Descent(0.3, R1, R2, memory=NUMBERS[name](0.72))
    fine = uj.limit(model, memory, state)
    for moved in (state.replace(log_scale=700.0), uj.State(1e-140 * state.H, 1e-140 * state.W, state.b)):
        other = uj.limit(model, memory, moved)
        for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(fine), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
    rough = uj.limit(model, memory, jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), state))
    assert rough.direction.H.dtype == np.float32
    assert float(rough.exponent) == pytest.approx(float(fine.exponent), rel=1e-3, abs=1e-5)
    assert float(rough.rate) == pytest.approx(float(fine.rate), rel=1e-2, abs=1e-5)
    np.testing.assert_allclose(rough.direction.H, fine.direction.H, atol=1e-3)
    nothing = uj.limit(model, memory, uj.State(0 * state.H, 0 * state.W, state.b))
    assert not np.any(np.nan_to_num(nothing.direction.H)), nothing


@pytest.mark.long
@pytest.mark.parametrize("memory", [uj.PolyakAverage(), uj.MovingAverage(0.5), uj.MovingAverage(0.99)], ids=str)
@pytest.mark.parametrize("model", [GROWS, DIES], ids=["grows", "dies"])
def test_the_average_of_a_flow(memory, model):
    """Against the closed form at late times."""
    flow = uj.Flow(0.5, R1, R2, memory=memory)
    found = uj.limit(model, flow, start(model))
    zetas = np.array([6.0, 9.0, 12.0]) / min(float(found.rate), 1.0)
    run = uj.exact(model, flow, start(model), zetas / 0.5, ["log_norm"], states=True)
    power = -1 if isinstance(memory, uj.PolyakAverage) else 0
    growth = (np.diff(run["log_norm"]) - power * np.diff(np.log(zetas))) / np.diff(zetas)
    assert float(found.exponent) == pytest.approx(growth[-1], rel=1e-3, abs=1e-5)
    assert found.side == ("grows" if model is GROWS else "shrinks")
    both, direction = (np.concatenate([s.H, s.W], axis=-2) for s in (run.states, found.direction))
    errors = np.linalg.norm(both / np.linalg.norm(both, axis=(1, 2), keepdims=True) - direction, axis=(1, 2))
    assert float(found.rate) == pytest.approx(-np.diff(np.log(errors))[-1] / np.diff(zetas)[-1], rel=2e-2), errors


@pytest.mark.long
@pytest.mark.parametrize("make", [uj.anchored, uj.frozen])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("decay", "eta"), [(0.4, 0.3), (0.0, 0.3), (0.4, 30.0)])
def test_one_part_that_moves(name, make, decay, eta):
    model, (memory, by_hand) = make(GROWS.labels, 3, decay=decay, gamma=0.3), KINDS[name]
    state = start(model.replace(bias=False))
    found = uj.limit(model, uj.Descent(eta, R1, R2, memory=memory), state)
    M, (H, W) = np.asarray(model.signal().dense("float64")), (np.asarray(state.H), np.asarray(state.W))
    pull, begin, rate = (M @ W, H, R1) if make is uj.anchored else (M.T @ H, W, R2)
    path = by_hand(lambda x, k: eta * rate * (pull - decay * x), begin, 1200 if eta < 1 else 120)
    # Large steps overshoot by so much that squares would leave the range.
    logs = [np.log(np.abs(x).max()) + np.log(np.linalg.norm(x / np.abs(x).max())) for x in (path[-25], path[-1])]
    last = path[-1] / np.exp(logs[-1])
    got = np.asarray(found.direction.H if make is uj.anchored else found.direction.W)
    assert np.linalg.norm(got) == pytest.approx(1, rel=1e-12)
    slow = decay == 0 or name in ("polyak", "schedule-free")
    np.testing.assert_allclose(got, last, atol=0.2 if slow else 1e-6)
    growth = (logs[1] - logs[0]) / 24
    assert float(found.exponent) == pytest.approx(max(growth, 0) if decay else 0.0, abs=0.02)


@pytest.mark.parametrize(("make", "memory"), [
    (uj.anchored, uj.PolyakAverage()), pytest.param(uj.frozen, uj.PolyakAverage(), marks=pytest.mark.long),
    pytest.param(uj.anchored, uj.MovingAverage(0.9), marks=pytest.mark.long),
])  # fmt: skip
def test_the_average_of_a_part_that_goes_to_and_fro(make, memory):
    """Each update maps x to 2 pull/decay - x, and an even number of them has been made."""
    model = make(GROWS.labels, 3, decay=0.5, gamma=0.3)
    state, rate = start(model.replace(bias=False)), R1 if make is uj.anchored else R2
    M, (H, W) = np.asarray(model.signal().dense("float64")), (np.asarray(state.H), np.asarray(state.W))
    pull, begin = (M @ W, H) if make is uj.anchored else (M.T @ H, W)
    found = uj.limit(model, uj.Descent(4 / rate, R1, R2, memory=memory), state)
    means = isinstance(memory, uj.PolyakAverage)
    path = polyak if means else lambda *given: moving(*given, 0.9)
    last = path(lambda x, k: 4 * (pull - 0.5 * x), begin, 2000)[-1]
    got = found.direction.H if make is uj.anchored else found.direction.W
    np.testing.assert_allclose(got, last / np.linalg.norm(last), atol=1e-12)
    assert found.side == ("converges" if means else "oscillates") and float(found.exponent) == 0


def test_what_is_refused():
    state = start(GROWS)
    for memory, what in (
        (uj.MovingAverage(1.0), "keep = 1"), (uj.Lookahead(3, 0.0), "share = 0"), (uj.ScheduleFree(1.0), "beta = 1")
    ):  # fmt: skip
        with pytest.raises(uj.NoClosedForm, match=f"{what} a .* follows no exponential"):
            uj.limit(GROWS, uj.Descent(0.3, memory=memory), state)
    with pytest.raises(uj.NoClosedForm, match="without momentum"):
        uj.limit(GROWS, uj.Descent(0.3, momentum=0.5, memory=uj.PolyakAverage()), state)
    even = uj.regularized(uj.balanced(3, 2), 4, decay=0.1)
    with pytest.raises(uj.NoClosedForm, match="consists of all modes"):
        uj.limit(even, uj.Descent(0.3, memory=uj.PolyakAverage()), even.init(jax.random.key(0)), target="mean")
    found = uj.limit(DIES, uj.Descent(0.3, memory=uj.ScheduleFree(0.7)), state)
    assert np.isnan(found.direction.H).all() and found.side == "shrinks" and "no part wins" in found.note
