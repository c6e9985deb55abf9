"""A run that is cut anywhere and goes on equals the run in one go, whatever is observed of it."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.observables import ObservableSet


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


RNG = np.random.default_rng(0)
LABELS = uj.balanced(3, 4)
BIASED = uj.from_counts([3, 5, 4])
START = uj.State(RNG.normal(size=(12, 4)), RNG.normal(size=(3, 4)), RNG.normal(size=3))
CORRELATED = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
KERNEL = CORRELATED @ np.diag(np.linspace(0.2, 1.5, 12)) @ CORRELATED.T
WAVE = uj.cosine(0.6, 25.0, 0.05)
MODELS = {
    "regularized": uj.regularized(LABELS, 4, decay=2e-2),
    "unequal classes": uj.regularized(BIASED, 4, decay=(1e-2, 5e-2)),
    "anchored": uj.anchored(LABELS, 4, decay=2e-2),
    "frozen": uj.frozen(LABELS, 4, decay=2e-2),
    "spherical": uj.spherical(LABELS, 4),
    "kernel": uj.ntk_invariant(LABELS, 4, KERNEL),
    "cross-entropy": uj.regularized(LABELS, 4, decay=2e-2, loss="cross_entropy"),
}
FLOW = uj.Flow(WAVE, rtol=1e-11)
DESCENTS = {
    "plain": uj.Descent(0.5),
    "schedule": uj.Descent(WAVE, rate_W=1.3),
    "momentum": uj.Descent(WAVE, momentum=0.8),
    "nesterov": uj.Descent(0.4, momentum=0.7, nesterov=True),
    "adam": uj.Descent(0.05, optimizer=optax.adam(1.0)),
    "numbers of adam": uj.Descent(0.05, optimizer=uj.Optimizer(optax.adam, learning_rate=uj.cosine(1.0, 40))),
}
DYNAMICS = {"flow": FLOW, **DESCENTS}
TIMES = np.array([3, 7, 14, 21])
"""Pieces of equally many updates, so that one program runs both that go on."""


def in_pieces(solve, model, dynamics, observe, **settings):
    """The same times, cut after the second and once more where nothing is read after the cut but the rest."""
    first = solve(model, dynamics, START, TIMES[:2], observe, **settings)
    second = solve(model, dynamics, first, TIMES[2:3], observe, **settings)
    return first, second, solve(model, dynamics, second, TIMES[3:], observe, **settings)


def same(whole, pieces, tolerance):
    def joined(take):
        return np.concatenate([np.asarray(take(piece)) for piece in pieces])

    for name in whole.observables:
        got = joined(lambda piece, name=name: piece[name])
        np.testing.assert_allclose(got, whole[name], rtol=tolerance, atol=tolerance, err_msg=name)
    last = pieces[-1]
    assert float(last.elapsed) == float(whole.elapsed)
    for part in ("H", "W", "b"):
        want = np.asarray(getattr(whole.final, part))
        size = max(np.max(np.abs(want)), 1e-30)
        np.testing.assert_allclose(getattr(last.final, part) / size, want / size, atol=tolerance, err_msg=part)
        if whole.states is not None:
            got = joined(lambda piece, part=part: getattr(piece.states, part))
            np.testing.assert_allclose(got / size, np.asarray(getattr(whole.states, part)) / size, atol=tolerance)


@pytest.mark.parametrize("how", ["exact flow", pytest.param("simulated momentum", marks=pytest.mark.long)])
def test_gaps_refer_to_the_first_start(how):
    """`gap_H` against the dense oracle: H minus the leading part of the first start."""
    model, names = MODELS["regularized"], ["gap_H", "gap_W", "log_distance"]
    if how == "exact flow":
        solve, dynamics = uj.exact, FLOW
    else:
        solve, dynamics = uj.simulate, uj.Descent(0.5, momentum=0.5)
    first = solve(model, dynamics, START, [3, 7], names)
    later = solve(model, dynamics, first, [10], names)
    M = np.asarray(model.signal().dense("float64"))
    A = np.block([[np.zeros((12, 12)), M], [M.T, np.zeros((3, 3))]])  # equal rates and decays: the top eigenspace
    values, vectors = np.linalg.eigh(A)
    top = vectors[:, values > values[-1] - 1e-9]
    lead = top @ (top.T @ np.concatenate([START.H, START.W]))
    for name, part, there in (("gap_H", "H", lead[:12]), ("gap_W", "W", lead[12:])):
        want = np.linalg.norm(np.asarray(getattr(later.final, part)) - there)
        assert float(later[name][0]) == pytest.approx(want, rel=1e-12)


def test_a_run_goes_on_only_with_its_own_clock_and_all_it_carried():
    model = MODELS["regularized"]
    heavy = uj.Descent(0.5, momentum=0.8)
    flown = uj.exact(model, uj.Flow(), START, [4.7], ())
    plain = uj.exact(model, uj.Descent(0.5), START, [4], ())
    moved = uj.simulate(model, heavy, START, [4], ())
    closed = uj.exact(model, heavy, START, [4], ())
    adam = uj.simulate(model, DESCENTS["adam"], START, [4], ())
    for solve in (uj.simulate, uj.exact):
        for before, dynamics, why in (
            (plain, uj.Flow(), "a Flow cannot continue a trajectory whose `elapsed` is a number of updates"),
            (flown, uj.Descent(0.5), "a Descent cannot continue a trajectory whose `elapsed` is a time"),
            (moved, uj.Descent(0.5), "momentum"),
            (moved, uj.Flow(), "number of updates|momentum"),
            (closed, uj.Descent(0.5), "momentum"),
            (adam, uj.Descent(0.5), "optimizer|momentum"),
        ):
            with pytest.raises(ValueError, match=why):
                solve(model, dynamics, before, [9], ())
    for before, dynamics in ((moved, DESCENTS["adam"]), (adam, heavy)):
        with pytest.raises(ValueError, match="another optimizer"):
            uj.simulate(model, dynamics, before, [9], ())
    for look in (
        lambda: uj.observe_state(model, flown),
        lambda: uj.hessian_spectrum(model, flown),
    ):
        with pytest.raises(ValueError, match="give its `final`"):
            look()
    with pytest.raises(ValueError, match="at rest"):
        uj.limit(model, heavy, moved)
    bare = dataclasses.replace(plain, origin=None)
    with pytest.raises(ValueError, match="refer to the start"):
        uj.exact(model, uj.Descent(0.5), bare, [9], "gap_H")


def test_a_part_that_stays_now_does_not_move_by_its_old_velocity():
    heavy = uj.Descent(0.5, momentum=0.8)
    before = uj.simulate(MODELS["regularized"], heavy, START, [4], (), reduce=False)
    after = uj.simulate(MODELS["frozen"], heavy, before, [9], (), reduce=False)
    np.testing.assert_array_equal(after.final.H, before.final.H)


def test_the_limit_of_a_trajectory_is_that_of_the_update_that_comes_next():
    model, steps = MODELS["regularized"], uj.Descent(uj.piecewise([0.5, 0.1], [10]))
    before = uj.exact(model, steps, START, [12], ())
    want = uj.limit(model, uj.Descent(0.1), before.final)
    assert float(uj.limit(model, steps, before).rate) == pytest.approx(float(want.rate), rel=1e-12)


PAIRS = {
    "regularized": "flow", "unequal classes": "schedule", "anchored": "momentum", "frozen": "adam",
    "spherical": "flow", "kernel": "nesterov", "cross-entropy": "plain",
}  # fmt: skip
"""Every case and every kind of dynamics; all others under fewer observables stand in the table."""
EVERYTHING = ("regularized", "spherical")
"""Where every observable is read."""
FEW = ObservableSet(["loss", "accuracy", "log_norm_H", "log_norm_W", "gap_H", "log_distance"])
"""What is read elsewhere, as far as a run has it: what refers to the start, and a few more."""


@pytest.mark.long
@pytest.mark.parametrize(("case", "kind"), PAIRS.items())
def test_cut_anywhere_and_going_on_equals_one_go(case, kind):
    """Simulated reduced and dense, and exact where there is a closed form."""
    model, dynamics = MODELS[case], DYNAMICS[kind]
    tolerance = 1e-6 if kind == "flow" else 1e-9
    for reduce in (True, False):
        observe = uj.all_observables if case in EVERYTHING and reduce else FEW
        settings = {"reduce": reduce, "states": True}
        whole = uj.simulate(model, dynamics, START, TIMES, observe, **settings)
        same(whole, in_pieces(uj.simulate, model, dynamics, observe, **settings), tolerance)
    observe = uj.all_observables if case in EVERYTHING else FEW
    try:
        whole = uj.exact(model, dynamics, START, TIMES, observe, states=True)
    except uj.NoClosedForm:
        return
    same(whole, in_pieces(uj.exact, model, dynamics, observe, states=True), 1e-9)


HEAVY = {
    "heavy": uj.Descent(WAVE, rate_W=1.3, momentum=0.8),
    "Nesterov": uj.Descent(0.4, momentum=0.7, nesterov=True),
    "large steps": uj.Descent(30.0, momentum=0.9),
}
SEEN = ObservableSet(["loss", "log_norm", "log_distance", "gap_W", "energy_1_plus"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "kind", "precision"),
    [
        ("regularized", "heavy", "float64"), ("unequal classes", "large steps", "float64"),
        ("kernel", "Nesterov", "float64"), ("anchored", "heavy", "float64"), ("frozen", "large steps", "float64"),
        ("regularized", "heavy", "float32"),
    ],
)  # fmt: skip
def test_exact_goes_on_with_the_velocity_of_momentum(case, kind, precision):
    """From exact and from simulated runs, and simulated from exact ones; the scale beside the arrays as well."""
    model, dynamics = MODELS[case], HEAVY[kind]
    settings = {"observe": SEEN, "precision": precision}
    digits = 1e-12 if precision == "float64" else 2e-5
    start = START.replace(H=START.H / 8, W=START.W / 8, log_scale=np.log(8.0))
    whole = uj.exact(model, dynamics, START, TIMES, states=True, **settings)
    scaled = uj.exact(model, dynamics, start, TIMES, **settings)
    for name, values in scaled.observables.items():
        np.testing.assert_allclose(values, whole[name], rtol=digits, atol=digits, err_msg=name)
    for one, other in ((uj.exact, uj.exact), (uj.simulate, uj.exact), (uj.exact, uj.simulate)):
        before = one(model, dynamics, start, TIMES[:1], **settings)
        before = one(model, dynamics, before, TIMES[1:2], **settings)
        after = other(model, dynamics, before, TIMES[2:], **settings)
        loose = digits if (one, other) == (uj.exact, uj.exact) else 20 * digits
        for name, values in after.observables.items():
            np.testing.assert_allclose(values, np.asarray(whole[name])[2:], rtol=loose, atol=loose, err_msg=name)
        last, scale = after.final, np.exp(float(after.final.log_scale) - float(whole.final.log_scale))
        for part in "HW":
            want = getattr(whole.final, part)
            np.testing.assert_allclose(getattr(last, part) * scale, want, atol=loose * np.max(np.abs(want)))
        simulated = uj.simulate(model, dynamics, START, TIMES, (), precision=precision)
        for part in ("H", "W", "b"):
            size = (
                1e-30
                + np.max(np.abs(np.asarray(simulated.memory["H"])))
                + np.max(np.abs(np.asarray(simulated.memory["W"])))
            )
            shift = np.exp(float(after.final.log_scale) - float(simulated.final.log_scale)) if part != "b" else 1.0
            got = np.asarray(after.memory[part]) * shift
            np.testing.assert_allclose(
                got, simulated.memory[part], atol=20 * loose * size, err_msg=f"velocity of {part}"
            )


@pytest.mark.long
def test_exact_goes_on_with_a_velocity_that_is_not_along_the_state():
    """After the decay and gamma have changed, labels too: against a loop over NumPy arrays."""
    before_model = uj.regularized(LABELS, 4, decay=(0.3, 0.1), gamma=0.9)
    model = uj.regularized(BIASED, 4, decay=(0.05, 0.2), gamma=0.2, bias=True)
    descent = uj.Descent(0.6, rate_H=0.8, rate_W=1.3, momentum=0.7, nesterov=True)
    before = uj.exact(before_model, descent, START, [5], ())
    run = uj.exact(model, descent, before, [5, 9, 30], "log_distance", states=True)
    M, eta, beta = np.asarray(model.signal().dense("float64")), 0.6, 0.7
    parts = [np.asarray(getattr(before.final, name)) for name in ("H", "W", "b")]
    velocity = [-np.asarray(before.memory[name]) for name in ("H", "W", "b")]
    velocity[2] = 0 * velocity[2]
    rates = (0.8, 1.3, 1.3)
    for k in range(25):
        H, W, b = parts
        forces = [M @ W - 0.05 * H, M.T @ H - 0.2 * W, M.sum(axis=0) - 0.2 * b]
        velocity = [force + beta * v for force, v in zip(forces, velocity, strict=True)]
        steps = [force + beta * v for force, v in zip(forces, velocity, strict=True)]
        parts = [part + eta * rate * step for part, rate, step in zip(parts, rates, steps, strict=True)]
        if k == 3:
            for part, want in zip("HWb", parts, strict=True):
                np.testing.assert_allclose(getattr(run.states, part)[1], want, rtol=1e-12, atol=1e-13)
    for part, want in zip("HWb", parts, strict=True):
        np.testing.assert_allclose(getattr(run.final, part), want, rtol=1e-11, atol=1e-12)


@pytest.mark.long
def test_a_batch_goes_on_exactly_with_its_velocities():
    model, dynamics = MODELS["regularized"], HEAVY["heavy"]
    starts = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x), 2 * jnp.asarray(x)]), START)

    def run(start):
        before = uj.exact(model, dynamics, start, TIMES[:2], "loss")
        return uj.exact(model, dynamics, before, TIMES[2:], "loss")["loss"]

    for i, factor in enumerate((1, 2)):
        one = START.replace(H=factor * START.H, W=factor * START.W, b=factor * START.b)
        want = uj.exact(model, dynamics, one, TIMES, "loss")["loss"][2:]
        np.testing.assert_allclose(jax.vmap(run)(starts)[i], want, rtol=1e-12)


@pytest.mark.long
def test_a_batch_of_runs_goes_on_as_each_of_them():
    model, names = MODELS["regularized"], ["gap_H", "log_distance", "loss"]
    starts = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x), 2 * jnp.asarray(x)]), START)

    def run(start):
        before = uj.simulate(model, FLOW, start, jnp.array([3.0, 7.0]), names)
        return uj.simulate(model, FLOW, before, jnp.array([12.0]), names)

    batch = jax.jit(jax.vmap(run))(starts)
    for i, start in enumerate((START, START.replace(H=2 * START.H, W=2 * START.W, b=2 * START.b))):
        alone = uj.simulate(model, FLOW, start, [12.0], names)
        for name in names:
            assert float(batch[name][i, 0]) == pytest.approx(float(alone[name][0]), rel=1e-8)
        np.testing.assert_array_equal(batch.origin.H[i], start.H)


def rows(model, state):
    return jnp.linalg.norm(state.W, axis=1)


@pytest.mark.long
def test_a_run_that_goes_on_observes_what_it_observed(tmp_path):
    model, flow = MODELS["regularized"], uj.Flow(0.5)

    def go_on(run, *observe):
        return uj.exact(model, flow, run, [2.0], *observe)

    def began(scale, *observe):
        return uj.exact(model, flow, START.replace(W=scale * START.W), [1.0], *observe)

    own, named = {"nc1": None, "rows": rows}, ["nc1", "gap_W"]
    first = began(1.0, own)
    again = go_on(first)
    np.testing.assert_array_equal(again["rows"], go_on(first, own)["rows"])
    assert {*go_on(again).observables} == {*uj.concat([first, again]).observables} == {*own}
    assert {*go_on(began(1.0, named)).observables} == {*named} and [*go_on(first, "loss").observables] == ["loss"]
    assert {*go_on(began(1.0, ())).observables} == {*began(1.0).observables} == {*go_on(began(1.0)).observables}
    assert (
        "distance" in began(1.0).observables
        and "distance" not in uj.simulate(MODELS["cross-entropy"], flow, began(1.0), [2.0]).observables
    )  # a ready-made set leaves out what has no meaning

    batch = jax.vmap(lambda scale: began(scale, own))(jnp.array([1.0, 2.0]))
    for after in (go_on(batch), jax.vmap(go_on)(batch)):
        np.testing.assert_allclose(after["rows"][0], again["rows"])

    def traced(scale):
        return began(scale, {"scaled": lambda model, state: scale * state.W[0]})

    first.save(tmp_path / "own.npz")
    began(1.0, named).save(tmp_path / "named.npz")
    loaded = uj.load(tmp_path / "own.npz")
    assert loaded == first and {*go_on(uj.load(tmp_path / "named.npz")).observables} == {*named}
    np.testing.assert_array_equal(go_on(loaded, own)["rows"], again["rows"])
    for lost in (loaded, pickle.loads(pickle.dumps(first)), jax.vmap(traced)(jnp.ones(1))):
        with pytest.raises(ValueError, match=r"functions of your own \((rows|scaled)\), which it does not hold"):
            go_on(lost)
    with pytest.raises(ValueError, match=r"\(rows\), which it does not hold"):
        jax.jit(go_on)(first)  # a program of another run's functions would be found by their names
    assert {*jax.jit(go_on)(began(1.0, named)).observables} == {*named}
