"""Squared error with more than two factors: against SciPy's DOP853 on the dense factors and on single modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_factors import UNEVEN, close, descended, direction, integrated, pull_of
from scipy.integrate import solve_ivp

import unhinged_jax as uj
from unhinged_jax.closed_form.deep_squared import growth
from unhinged_jax.derivatives.sensitivities import disagreement

FLOW = uj.Flow()


def problem(depth=3, labels=UNEVEN, dim=4, rates=(1.0, 1.0), sizes=(0.9, 0.5, 0.2), **more):
    model = uj.unconstrained(labels, dim, depth=depth, loss="mse")
    start = model.init(jax.random.key(1), spectral=list(sizes), **{"precision": "float64", **more})
    return model, start if rates[0] == rates[1] else start.replace(H=start.H * np.sqrt(rates[0] / rates[1]))


# --- one mode -------------------------------------------------------------------------------------------------------

MODES = {  # x and c of g' = x g^(L-1) - c g^(2L-1)
    "rises": (1.0, 0.3), "rises far": (1.0, 1e-5), "begins left of the table": (1.2, 1e-18), "falls": (0.3, 5.0),
    "falls far": (1e-3, 1.0), "turns away": (-1.0, 0.5), "turns away far": (-1.0, 1e-6), "hardly pulled": (-1e-5, 1.0),
    "without a target": (0.0, 1.0), "nearly there": (1.0, 1 - 1e-6), "there": (1.0, 1.0),
    "just there": (1.0, 1 + 1e-12),
}  # fmt: skip
AGES = np.array([0.0, 1e-6, 0.02, 0.3, 0.9, 2.0, 6.0])


@pytest.mark.parametrize("depth", [3, pytest.param(4, marks=pytest.mark.long), pytest.param(9, marks=pytest.mark.long)])
def test_growth_of_a_mode_is_that_of_an_integrator(depth):
    """With the rate of the equation as the slope in time, and its own slope in turn."""
    drives, brakes = (np.array(column) for column in zip(*MODES.values(), strict=True))
    times = AGES / (depth - 2)

    def rate(z):
        return drives * np.exp((depth - 2) * z) - brakes * np.exp((2 * depth - 2) * z)

    def grown(tau):
        return growth(depth, jnp.asarray(drives), jnp.log(brakes), tau).log

    with jax.enable_x64(True):
        found, slopes, bends = jax.jit(
            jax.vmap(lambda tau: (grown(tau), jax.jacfwd(grown)(tau), jax.jacfwd(jax.jacfwd(grown))(tau)))
        )(times)
        found, slopes, here, bends = (np.asarray(x) for x in (found, slopes, found, bends))
    for place in range(drives.size):
        x, c = drives[place], brakes[place]
        if list(MODES)[place] == "begins left of the table":  # where an integrator would take millions of steps
            gone = np.log1p(-(depth - 2) * x * times[:4])
            np.testing.assert_allclose(found[:4, place], -gone / (depth - 2), rtol=1e-12)
            np.testing.assert_allclose(found[4:, place], np.log(x / c) / depth, rtol=1e-12)
            continue

        def velocity(_, z, x=x, c=c):
            z = np.minimum(z, 20.0)  # which a solver may try, and no mode has
            return x * np.exp((depth - 2) * z) - c * np.exp((2 * depth - 2) * z)

        z = [0.0]
        for before, time, value in zip(times[:-1], times[1:], found[1:, place], strict=True):
            z = solve_ivp(velocity, (before, time), z, "DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
            np.testing.assert_allclose(value, z[0], rtol=1e-11, atol=1e-11)
    size = np.abs(drives) * np.exp((depth - 2) * here) + brakes * np.exp((2 * depth - 2) * here)
    assert np.all(np.abs(slopes - rate(here)) <= 1e-12 * size + 1e-14)
    turn = (depth - 2) * drives * np.exp((depth - 2) * here)
    turn = turn - (2 * depth - 2) * brakes * np.exp((2 * depth - 2) * here)
    assert np.all(np.abs(bends - turn * rate(here)) <= 1e-10 * depth * size**2)


@pytest.mark.parametrize("depth", [3, 9])
def test_what_is_left_of_a_target_is_known_where_it_is_far_below_rounding(depth):
    """As a number that is integrated by itself, with its slope; x r0 (1 - r) is what is left, over the start."""
    names = [name for name in MODES if name != "begins left of the table"]
    times = np.array([0.0, 0.3, 6.0, 90.0]) / (depth - 2)
    for name in names:
        x, c = MODES[name]

        def velocity(_, y, x=x, c=c):
            z = min(y[0], 20.0)
            pull = x * np.exp((depth - 2) * z)
            return [pull - c * np.exp((2 * depth - 2) * z), -depth * c * np.exp((2 * depth - 2) * z)]

        with jax.enable_x64(True):
            log_brake = jnp.log(jnp.array([c]))
            of_tau = jax.vmap(lambda tau, x=x, c=log_brake: growth(depth, jnp.array([x]), c, tau).log_left)
            left = np.asarray(of_tau(times)[:, 0])
        if c == x:
            assert np.all(left == -np.inf)
            continue
        begin = np.log(abs(x / c - 1))
        truth = solve_ivp(velocity, (0, times[-1]), [0.0, begin], "Radau", times, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(left, truth.y[1], rtol=3e-9, atol=3e-9, err_msg=name)


def test_modes_at_rest_join_those_that_rise_and_fall():
    """On both sides of the edges of the band in which the square of log r is all that counts beside it."""
    edge = np.finfo(float).eps ** 0.5 / 8
    log_share = np.outer([-edge, edge], [1 - 1e-6, 1 + 1e-6])
    with jax.enable_x64(True):
        found = growth(5, jnp.ones(4), jnp.asarray(log_share.ravel()), jnp.asarray(0.3))
        left = np.asarray(found.log_left).reshape(2, 2) + log_share - np.log(np.abs(np.expm1(log_share)))
        moved = np.asarray(found.log).reshape(2, 2) / log_share
    np.testing.assert_allclose(left[:, 0], left[:, 1], rtol=0, atol=2e-11)
    np.testing.assert_allclose(moved[:, 0], moved[:, 1], rtol=1e-6)


def test_growth_of_a_mode_has_slopes_in_its_numbers_and_any_time_and_precision():
    drives, brakes, tau, step = np.array([1.0, 1.0, 0.3, -1.0, 1.0]), np.array([0.3, 1e-5, 5.0, 0.5, 1.0]), 0.8, 1e-6

    def grown(drive, log_brake, tau=tau):
        return growth(3, drive, log_brake, tau).log

    with jax.enable_x64(True):
        ends = [grown(jnp.asarray(drives + move), jnp.log(brakes)) for move in (step, -step)]
        slope = jax.jvp(lambda x: grown(x, jnp.log(brakes)), (jnp.asarray(drives),), (jnp.ones(5),))[1]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)
        ends = [grown(jnp.asarray(drives), jnp.log(brakes) + move) for move in (step, -step)]
        slope = jax.jvp(lambda c: grown(jnp.asarray(drives), c), (jnp.log(brakes),), (jnp.ones(5),))[1]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)
        late = grown(jnp.asarray(drives), jnp.log(brakes), jnp.asarray(1e200))
        rests = np.log(np.abs(drives) / brakes) / 3
        np.testing.assert_allclose(late, np.where(drives > 0, rests, -200 * np.log(10)), rtol=1e-12, atol=1e-12)
        # Of two factors' growth and of none: the equation loses its power, and its brake, as the depth tends to 2.
        rise = growth(2 + 1e-5, jnp.array([1.0]), jnp.log(jnp.array([0.3])), 1.5).log
        np.testing.assert_allclose(rise, -np.log(0.3 + 0.7 * np.exp(-3.0)) / 2, atol=1e-4)
    single = grown(jnp.asarray(drives, "float32"), jnp.log(jnp.asarray(brakes, "float32")), jnp.float32(tau))
    with jax.enable_x64(True):
        np.testing.assert_allclose(single, grown(jnp.asarray(drives), jnp.log(brakes)), rtol=1e-5, atol=1e-6)


# --- the model ------------------------------------------------------------------------------------------------------

CASES = {
    "depth 3, counts": {},
    "depth 4, rates, few dimensions": {"depth": 4, "rates": (0.7, 1.3), "dim": 2, "sizes": (0.9, 0.4)},
    "depth 5, soft targets, a mode absent": {"depth": 5, "labels": UNEVEN.symmetric_noise(0.2), "sizes": (1.4, 0.5)},
    "depth 3, modes of all sizes": {"labels": uj.balanced(4, 2), "dim": 5, "sizes": (1.0, 1e-3, 1e-6, 1e-9)},
    "depth 3, balanced, other sizes": {"labels": uj.balanced(4, 3), "dim": 6, "sizes": (0.8, 0.8, 2.0, 0.3)},
}


@pytest.mark.parametrize(("depth", "sizes"), [(3, (1e3, 1e60, 1e120)), (10, (1e2, 1e4, 1e16))])
def test_a_start_far_above_its_target_is_forgotten(depth, sizes):
    """Soon a^(2-2L) is (2L-2) q tau, until the target, 1 here, is felt."""
    with jax.enable_x64(True):
        log_size = np.log(sizes)
        drive, log_brake = 0.5 * np.exp((depth - 2) * log_size), np.log(0.5) + (2 * depth - 2) * log_size
        found = [
            growth(depth, jnp.asarray(drive * pull), jnp.asarray(log_brake), jnp.asarray(tau)).log + log_size
            for pull, tau in ((1, 1e-9), (1, 2.0), (0, 2.0))
        ]
    alone = [-np.log((2 * depth - 2) * 0.5 * tau) / (2 * depth - 2) for tau in (1e-9, 2.0)]
    if depth == 3:  # the smallest start is not forgotten so soon
        np.testing.assert_allclose(found[0][1:], alone[0], rtol=1e-6)
    np.testing.assert_allclose(found[2], alone[1], atol=1e-9)
    full = solve_ivp(
        lambda _, a: 0.5 * a ** (depth - 1) * (1 - a**depth), (0, 2.0), [1e2], method="Radau", rtol=1e-11, atol=1e-13
    )
    np.testing.assert_allclose(found[1], np.log(full.y[0, -1]), atol=1e-8)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if place != 1 else n for place, n in enumerate(CASES)]
)
def test_closed_form_is_the_flow_and_the_descent_of_the_dense_factors(name):
    rates = CASES[name].get("rates", (1.0, 1.0))
    model, start = problem(**CASES[name])
    flow, descent = (kind(1.0, rate_H=rates[0], rate_W=rates[1]) for kind in (uj.Flow, uj.Descent))
    decayed = model.replace(decay=(0.03 / rates[0], 0.03 / rates[1]))
    for dynamics, at, times, oracle in (
        (flow, model, [0.0, 2.0, 15.0], integrated), (descent, decayed, [0, 3, 12], descended),
    ):  # fmt: skip
        run = uj.exact(at, dynamics, start, times, ["loss", "log_norm"], states=True)
        for place, factors in enumerate(oracle(at, dynamics, start, times)):
            close(run.states, place, factors, 1e-10)


def test_the_limit_is_where_the_run_goes():
    model, start = problem()
    found = uj.limit(model, FLOW, start)
    assert found.side == "stays" and float(found.exponent) == 0
    run = uj.exact(model, FLOW, start, [60.0, 70.0, 1e6], "loss", states=True)
    gaps = [
        np.linalg.norm(direction(jax.tree.map(lambda x, k=k: x[k], run.states)) - direction(found.direction))
        for k in range(3)
    ]
    np.testing.assert_allclose(np.log(gaps[0] / gaps[1]) / 10, found.rate, rtol=1e-3)
    assert gaps[2] < 1e-14 and run["loss"][2] < 1e-28
    # A mode whose start points away from its target fades like a power of time, as does one without a target.
    away = start.replace(W=start.W * np.sign(np.asarray(UNEVEN.counts()) - 2.5)[:, None])
    lost = uj.limit(model, FLOW, away)
    assert float(lost.rate) == 0
    last = uj.exact(model, FLOW, away, [1e9], ()).final
    assert np.linalg.norm(direction(last) - direction(lost.direction)) < 1e-6


@pytest.mark.parametrize("labels", [UNEVEN, pytest.param(UNEVEN.symmetric_noise(0.2), marks=pytest.mark.long)])
def test_a_loss_far_below_rounding_falls_as_fast_as_the_limit_says(labels):
    model, start = problem(labels=labels)
    rate, names = float(uj.limit(model, FLOW, start).rate), ["log_abs_loss"]
    run = uj.exact(model, FLOW, start, [60.0, 5e3, 1e4], names, states=True)
    np.testing.assert_allclose(run["log_abs_loss"][2] - run["log_abs_loss"][1], -2 * 5e3 * rate, rtol=1e-11)
    with jax.enable_x64(True):
        probabilities = labels.probabilities()
    logits = run.states.H[0] @ run.states.inner[0, 0].T @ run.states.W[0].T  # whose distance still has seven digits
    loss = np.sum((np.asarray(probabilities) - logits) ** 2) / (2 * model.samples)
    np.testing.assert_allclose(run["log_abs_loss"][0], np.log(loss), rtol=1e-8)
    traced = jax.jit(lambda state: uj.exact(model, FLOW, state, [5e3], names)[names[0]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(traced(start), run["log_abs_loss"][1:2], rtol=1e-12)
    single = uj.exact(model, FLOW, problem(labels=labels, precision="float32")[1], [5e3], names)
    np.testing.assert_allclose(single["log_abs_loss"], run["log_abs_loss"][1:2], rtol=1e-4)


def test_derivatives_are_finite_where_no_mode_reaches_a_part_of_the_targets():
    model, start = problem(sizes=(0.9, 0.5))

    def loss(eta):
        return uj.exact(model, uj.Flow(eta), start, [1.0], "loss")["loss"][0]

    with jax.enable_x64(True):
        slope = (loss(1.0 + 1e-6) - loss(1.0 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), slope, rtol=1e-7)


def test_what_rules_the_closed_form_out_is_named():
    model, start = problem()
    cases = {
        "without decay only": (model.replace(decay=0.1), FLOW, start),
        "equal weight": (model.replace(labels=UNEVEN.weighted(samples=np.arange(1.0, 10.0))), FLOW, start),
        "without a bias that moves": (model.replace(bias=True), FLOW, start),
        "at logits of 0": (model, FLOW, start.replace(W=np.roll(start.W, 1, axis=0))),
        "Flow and for a plain Descent only": (model, uj.Descent(0.1, momentum=0.5), start),
        "squared error, only": (model.replace(loss="cross_entropy"), FLOW, start),
    }
    for words, (m, dynamics, state) in cases.items():
        with pytest.raises(uj.NoClosedForm, match=words):
            uj.exact(m, dynamics, state, [1.0], "loss")
    # Traced numbers that rule it out give NaN, as does a derivative with respect to what has no closed form beside 0.
    with jax.enable_x64(True):
        loss = jax.jit(lambda decay: uj.exact(model.replace(decay=decay), FLOW, start, [1.0], "loss")["loss"])
        assert np.isfinite(loss(0.0)).all() and np.isnan(loss(0.1)).all() and np.isnan(jax.jacfwd(loss)(0.0)).all()
    with pytest.raises(uj.NoClosedForm, match="derivative with respect to 'decay'"):
        uj.sensitivity(model, FLOW, start, [1.0], "loss", ["decay"], sources="exact")


@pytest.mark.long
def test_batches_precision_derivatives_and_runs_that_go_on():
    model, start = problem(depth=4)
    times, names = [3.0, 12.0], ["loss", "log_norm"]
    whole = uj.exact(model, FLOW, start, times, names)
    single = uj.exact(model, FLOW, problem(depth=4, precision="float32")[1], times, names)
    rest = uj.exact(model, FLOW, uj.exact(model, FLOW, start, times[:1], names), times[1:], names)
    for name in names:
        np.testing.assert_allclose(single[name], whole[name], rtol=1e-4)
        np.testing.assert_allclose(rest[name], whole[name][1:], rtol=1e-11)
    rates = np.array([0.5, 1.0])
    with jax.enable_x64(True):
        batch = jax.vmap(lambda eta: uj.exact(model, uj.Flow(eta), start, times, "loss")["loss"])(rates)
        sized = jax.jit(lambda size: uj.exact(
            model, FLOW, model.init(jax.random.key(1), spectral=jnp.array([0.9, 0.5, 0.2]) * size), times, "loss"
        )["loss"])  # fmt: skip
        np.testing.assert_allclose(sized(1.0), whole["loss"], rtol=1e-10)
        slope = jax.jacfwd(sized)(1.0)
        np.testing.assert_allclose(slope, (sized(1 + 1e-5) - sized(1 - 1e-5)) / 2e-5, rtol=1e-7)
    for place, eta in enumerate(rates):
        np.testing.assert_allclose(
            batch[place], uj.exact(model, uj.Flow(eta), start, times, "loss")["loss"], rtol=1e-12
        )
    table = uj.sensitivity(model, uj.Flow(rtol=1e-10), start, times, names, ["eta"])
    assert max(disagreement(table).values()) < 1e-6
    simulated = uj.simulate(model, uj.Flow(rtol=1e-10), start, times, names, states=True)
    assert uj.verify(simulated, uj.exact(model, FLOW, start, times, names, states=True)).worst < 1e-8
    # Without rounding of large logits beside small ones: a start of almost nothing waits, and then rises at once.
    tiny = start.replace(**{part: 1e-12 * np.asarray(getattr(start, part)) for part in ("H", "W", "inner")})
    waits = 1 / (2 * np.linalg.svd(pull_of(model)(0.0), compute_uv=False)[0] * (0.9e-12) ** 2)
    losses = uj.exact(model, FLOW, tiny, np.array([0.99, 1.01]) * waits, "loss")["loss"]
    np.testing.assert_allclose(losses[0], 0.5, rtol=1e-12)
    np.testing.assert_allclose(losses[1], 0.5 - 2 / 9, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(1e-13, 1e-14), pytest.param((1e15, 1e14), marks=pytest.mark.long)])
def test_starts_whose_drive_is_beyond_the_range_of_float32(sizes):
    """sigma a^(L-2) is 1e-40 or 1e44 there; the rate L sigma (sigma/q)^(1-2/L) has no memory of the start."""
    labels, depth = uj.balanced(2, 3), 5
    model = uj.unconstrained(labels, 3, depth=depth, loss="mse")
    state = model.init(jax.random.key(0), spectral=np.asarray(sizes), precision="float32")
    q, target = 1 / 6, 3**0.5
    found = uj.limit(model, uj.Flow(), state)
    np.testing.assert_allclose(found.rate, depth * q * target * target ** (1 - 2 / depth), rtol=1e-4)
    values = np.linalg.svd(found.direction.H, compute_uv=False)[:2]
    np.testing.assert_allclose(values, depth**-0.5 / 2**0.5, rtol=1e-4)  # both modes live, in all factors alike
    small = uj.unconstrained(labels, 3, depth=depth)
    lost = uj.limit(small, uj.Flow(), small.init(jax.random.key(0), spectral=sizes[:1], precision="float32"))
    assert np.isnan(lost.direction.H).all() if sizes[0] < 1 else (float(lost.blow_up) == 0 and lost.side == "grows")
