"""Schedules against SciPy quadrature, optax and series worked out by hand."""

import doctest
import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
from jax.tree_util import Partial

from unhinged_jax.schedules import (
    QuadratureWarning,
    as_schedule,
    constant,
    constructors,
    cosine,
    exponential,
    join,
    joining,
    numeric,
    piecewise,
    polynomial,
    quadrature,
    shapes,
    warmup,
    warmup_stable_decay,
)
from unhinged_jax.schedules.total import remaining

pytestmark = pytest.mark.filterwarnings("error")


def cosine_rate(t, peak, horizon, floor):
    return floor + (peak - floor) * (1 + np.cos(np.pi * min(t, horizon) / horizon)) / 2


def polynomial_rate(t, initial, horizon, power, final):
    return final + (initial - final) * (1 - min(t, horizon) / horizon) ** power


def warmup_rate(t, length, peak, horizon, start):
    rise = start + (peak - start) * t / length
    return rise if t < length else cosine_rate(t - length, peak, horizon, 0.0)


def piecewise_rate(t, a, b, c, first, second):
    return a if t < first else b if t < second else c


def joined(peak, horizon, kept, falls, over, first, second):
    """A cosine that is cut short or ends before the first boundary, a constant, and a line."""
    return join([cosine(peak, horizon), kept, polynomial(falls, over)], [first, second])


def joined_rate(t, peak, horizon, kept, falls, over, first, second):
    if t < first:
        return cosine_rate(t, peak, horizon, 0.0)
    return kept if t < second else polynomial_rate(t - second, falls, over, 1.0, 0.0)


def joined_breaks(peak, horizon, kept, falls, over, first, second):
    return [*([horizon] if horizon < first else []), first, second, second + over]


def rise_and_fall(peak, rise, stable, fall, floor):
    return warmup_stable_decay(peak, warmup=rise, stable=stable, decay=fall, floor=floor)


def rise_and_fall_rate(t, peak, rise, stable, fall, floor):
    return np.interp(t, [0.0, rise, rise + stable, rise + stable + fall], [0.0, peak, peak, floor])


def none(*_):
    return []


# constructor of the parameters, parameters, NumPy rate, where it is not smooth
CASES = {
    "constant": (constant, [0.3], lambda t, value: value, none),
    "cosine": (cosine, [0.2, 7.0, 0.05], cosine_rate, lambda peak, horizon, floor: [horizon]),
    "cosine up": (cosine, [0.1, 7.0, 0.3], cosine_rate, lambda peak, horizon, floor: [horizon]),
    "exponential": (exponential, [0.4, 0.6], lambda t, a, k: a * np.exp(-k * t), none),
    "slow exponential": (exponential, [0.4, 0.01], lambda t, a, k: a * np.exp(-k * t), none),
    "growth": (exponential, [0.4, -0.3], lambda t, a, k: a * np.exp(-k * t), none),
    "line": (polynomial, [0.4, 6.0, 1.0, 0.1], polynomial_rate, lambda a, horizon, *_: [horizon]),
    "polynomial": (polynomial, [0.4, 6.0, 2.5, 0.1], polynomial_rate, lambda a, horizon, *_: [horizon]),
    "piecewise": (
        lambda a, b, c, x, y: piecewise([a, b, c], [x, y]),
        [0.3, 0.0, 0.5, 2.0, 5.5],
        piecewise_rate,
        lambda a, b, c, x, y: [x, y],
    ),
    "warmup": (
        lambda n, peak, horizon, start: warmup(n, cosine(peak, horizon), start),
        [2.5, 0.3, 4.0, 0.1],
        warmup_rate,
        lambda n, peak, horizon, start: [n, n + horizon],
    ),
    "joined": (joined, [0.3, 1.5, 0.2, 0.1, 1.3, 2.0, 5.5], joined_rate, joined_breaks),
    "joined, one cut short": (joined, [0.3, 9.0, 0.2, 0.1, 1.3, 2.0, 5.5], joined_rate, joined_breaks),
    "rise and fall": (
        rise_and_fall,
        [0.3, 2.0, 3.5, 1.3, 0.05],
        rise_and_fall_rate,
        lambda peak, rise, stable, fall, floor: [rise, rise + stable, rise + stable + fall],
    ),
}
case = pytest.mark.parametrize("name", CASES)
TIMES = np.array([5.5, 0.0, 1e-3, 2.0, 3.7, 6.0, 7.0, 11.0])


def quad(rate, parameters, breaks, t):
    edges = [0.0, *(b for b in breaks if b < t), t]
    return sum(
        scipy.integrate.quad(rate, a, b, args=tuple(parameters), epsabs=0, epsrel=1e-13)[0]
        for a, b in itertools.pairwise(edges)
    )


@case
def test_closed_form_equals_quadrature(name):
    make, parameters, rate, breaks = CASES[name]
    with jax.enable_x64(True):
        schedule = make(*parameters)
        np.testing.assert_allclose(schedule(TIMES), [rate(t, *parameters) for t in TIMES], rtol=1e-13, atol=1e-17)
        expected = [quad(rate, parameters, breaks(*parameters), t) for t in TIMES]
        np.testing.assert_allclose(schedule.integral(TIMES), expected, rtol=1e-13)
        np.testing.assert_allclose(schedule.breaks, breaks(*parameters))


@case
def test_derivatives(name):
    """In t the rate, also at the breaks; in the parameters the difference quotient of SciPy's."""
    make, parameters, rate, breaks = CASES[name]
    with jax.enable_x64(True):
        schedule = make(*parameters)
        slope = jax.vmap(jax.grad(schedule.integral))(jnp.asarray(TIMES))
        np.testing.assert_allclose(slope, schedule(TIMES), rtol=1e-13, atol=1e-17)

        def zeta(x, t):
            return make(*x).integral(t)

        for t in (1.7, 9.0):
            gradient = jax.grad(zeta)(parameters, t)
            for i, x in enumerate(parameters):
                h = 1e-4 * max(x, 0.1)
                ends = []
                for y in (x - h, x + h):
                    moved = [*parameters[:i], y, *parameters[i + 1 :]]
                    ends.append(quad(rate, moved, breaks(*moved), t))
                quotient = (ends[1] - ends[0]) / (2 * h)
                np.testing.assert_allclose(gradient[i], quotient, rtol=1e-6, atol=1e-9)


def test_exponential_through_zero_rate():
    t = 3.0
    with jax.enable_x64(True):
        for rate in (0.0, 1e-18, -1e-12, 1e-7):
            x = rate * t
            assert exponential(0.4, rate).integral(t) == pytest.approx(0.4 * t * (1 - x / 2 + x**2 / 6), rel=1e-15)

            def zeta(k):
                return exponential(0.4, k).integral(t)

            slope = 0.4 * t**2 * (-1 / 2 + x / 3 - x**2 / 8)
            assert jax.grad(zeta)(rate) == pytest.approx(slope, rel=1e-14)
            assert jax.grad(jax.grad(zeta))(rate) == pytest.approx(0.4 * t**3 * (1 / 3 - x / 4), rel=1e-12)
        assert exponential(0.4, 2.0).integral(1e6) == pytest.approx(0.2, rel=1e-15)


def test_no_cancellation():
    with jax.enable_x64(True):
        t = 5000 - 1e-3
        x = np.pi / 2 * (5000 - t) / 5000
        assert cosine(0.1, 5000)(t) == pytest.approx(0.1 * x**2 * (1 - x**2 / 3), rel=1e-14)
        v = 1e-9
        assert polynomial(0.1, 1.0, 2).integral(v) == pytest.approx(0.1 * v * (1 - v), rel=1e-15)
        assert polynomial(0.1, 4.0, 0.5)(4 - 1e-8) == pytest.approx(0.1 * ((4 - (4 - 1e-8)) / 4) ** 0.5, rel=1e-14)


def test_rates_match_optax():
    steps = np.arange(0, 1300, 50)
    pairs = [
        (cosine(0.1, 1000, 0.01), optax.cosine_decay_schedule(0.1, 1000, alpha=0.1)),
        (exponential(0.1, np.log(2) / 100), optax.exponential_decay(0.1, 100, 0.5)),
        (polynomial(0.1, 800, 2, 0.01), optax.polynomial_schedule(0.1, 0.01, 2, 800)),
        (warmup(200, cosine(0.1, 800)), optax.warmup_cosine_decay_schedule(0, 0.1, 200, 1000)),
    ]
    with jax.enable_x64(True):
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours(steps), theirs(steps), rtol=1e-12, atol=1e-16)
        jumps = optax.piecewise_constant_schedule(0.1, {100: 0.5, 700: 0.1})
        np.testing.assert_allclose(
            piecewise([0.1, 0.05, 0.005], [100, 700])(steps), [jumps(k) for k in steps], rtol=1e-14
        )


def test_is_an_optax_schedule():
    optimiser = optax.sgd(piecewise([1.0, 0.5], [2]))
    state, x = optimiser.init(0.0), jnp.float32(0)
    for _ in range(4):
        update, state = optimiser.update(jnp.float32(1), state)
        x = x + update
    assert x.dtype == jnp.float32 and float(x) == -3.0


# --- numeric ------------------------------------------------------------------------------------

MANY = np.random.default_rng(0).uniform(0.1, 5000, 50_000)
NUMERIC = {
    "decay": (lambda t: jnp.exp(-t), [], lambda t: -np.expm1(-t)),
    "layer": (
        lambda t: 0.01 + 0.1 * jnp.exp(-2000 * t),
        [],
        lambda t: 0.01 * t - 5e-5 * np.expm1(-2000 * t),
    ),
    "late layer": (
        lambda t: 0.01 + 0.1 * jnp.where(t < 3000, 0.0, jnp.exp(-1000 * (t - 3000))),
        [3000.0],
        lambda t: 0.01 * t - 1e-4 * np.expm1(-1000 * np.maximum(t - 3000, 0)),
    ),
    "50 periods": (
        lambda t: 1 + jnp.cos(np.pi * t / 50),
        [],
        lambda t: t + 50 / np.pi * np.sin(np.pi * t / 50),
    ),
    "growth": (lambda t: jnp.exp(t / 50), [], lambda t: 50 * np.expm1(t / 50)),
    "root": (lambda t: jnp.sqrt(t), [], lambda t: t**1.5 / 1.5),
    "optax": (
        optax.warmup_cosine_decay_schedule(0, 0.1, 500, 4000),
        [500.0, 4000.0],
        lambda t: np.where(
            t < 500,
            1e-4 * t**2,
            25 + 0.05 * (np.minimum(t, 4000) - 500) + 0.05 * 3500 / np.pi
            * np.sin(np.pi * (np.minimum(t, 4000) - 500) / 3500),
        ),
    ),
    "optax, kinks not stated": (
        optax.linear_schedule(1.0, 0.25, 1000),
        [],
        lambda t: np.where(t < 1000, t - 0.375e-3 * t**2, 625 + 0.25 * (t - 1000)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMERIC)
def test_numeric_is_exact_at_many_unsorted_times(name):
    function, breaks, exact = NUMERIC[name]
    with jax.enable_x64(True):
        schedule = numeric(function, breaks)
        np.testing.assert_allclose(schedule.integral(MANY), exact(MANY), rtol=1e-12)
        assert np.max(schedule.error(MANY)) < 1e-12
        assert schedule.breaks == tuple(breaks)


def test_numeric_in_float32():
    function, breaks, exact = NUMERIC["50 periods"]
    zeta = numeric(function, breaks).integral(MANY.astype(np.float32))
    assert zeta.dtype == jnp.float32
    np.testing.assert_allclose(zeta, exact(MANY.astype(np.float32).astype(float)), rtol=2e-6)


def test_numeric_shapes_and_edge_times():
    with jax.enable_x64(True):
        schedule = numeric(optax.constant_schedule(2))
        grid = schedule.integral(np.arange(6).reshape(2, 3))
        np.testing.assert_allclose(grid, 2.0 * np.arange(6).reshape(2, 3), rtol=1e-15)
        assert schedule(np.ones((2, 3))).shape == (2, 3)
        assert schedule.integral(np.zeros((0,))).shape == (0,)
        assert schedule.integral(0) == 0 and schedule.error(0) == 0


def test_numeric_is_not_silent():
    with jax.enable_x64(True):
        stairs = optax.exponential_decay(1.0, 10, 0.9, staircase=True)
        with pytest.warns(QuadratureWarning, match="breaks"):
            numeric(stairs).integral(990.0)
        exact = 10 * (1 - 0.9**99) / 0.1
        stated = numeric(stairs, np.arange(10.0, 990.0, 10.0))
        assert stated.integral(990.0) == pytest.approx(exact, rel=1e-12)

        fast = numeric(lambda t: 1 + jnp.cos(40 * t))
        with pytest.warns(QuadratureWarning):
            zeta = fast.integral(5000.0)
        assert abs(zeta - (5000 + np.sin(200_000) / 40)) / 5000 <= 2 * fast.error(5000.0)
        assert jnp.isfinite(jax.jit(fast.integral)(5000.0))

        with pytest.warns(QuadratureWarning, match="nan"):
            numeric(lambda t: jnp.where(t > 2, jnp.nan, 1.0)).integral(3.0)
        with pytest.raises(ValueError, match="negative"):
            numeric(lambda t: 1 - t / 10).integral(30.0)


def rate(a, w, t):
    return a * jnp.exp(-w * t) + 0.1


def closed(a, w, t):
    return -a * jnp.expm1(-w * t) / w + 0.1 * t


@pytest.mark.long
def test_numeric_derivatives():
    """Parameters as leaves and as closed-over tracers, first and second order, mixed with t."""
    x = (0.3, 0.7, 3.0)
    with jax.enable_x64(True):
        expected = jax.grad(closed, (0, 1, 2))(*x)
        second = jax.hessian(closed, (0, 1, 2))(*x)

        def leaves(a, w, t):
            return numeric(Partial(rate, a, w)).integral(t)

        def closure(a, w, t):
            return numeric(lambda s: rate(a, w, s)).integral(t)

        np.testing.assert_allclose(jax.grad(leaves, (0, 1, 2))(*x), expected, rtol=1e-12)
        np.testing.assert_allclose(jax.grad(closure, (0, 1, 2))(*x), expected, rtol=1e-12)
        np.testing.assert_allclose(jax.hessian(leaves, (0, 1, 2))(*x), second, rtol=1e-12, atol=1e-15)
        with jax.checking_leaks():
            assert jax.jit(jax.grad(closure))(*x) == pytest.approx(float(expected[0]), rel=1e-12)


@pytest.mark.long
def test_numeric_under_vmap():
    with jax.enable_x64(True):
        times, speeds = jnp.linspace(0, 20, 7), jnp.array([0.5, 0.7, 200.0])
        expected = jax.vmap(lambda w: closed(0.3, w, times))(speeds)

        def zeta(w, t):
            return numeric(Partial(rate, 0.3, w)).integral(t)

        def closure(w, t):
            return numeric(lambda s: rate(0.3, w, s)).integral(t)

        each = jax.vmap(jax.vmap(zeta, (None, 0)), (0, None))(speeds, times)
        np.testing.assert_allclose(each, expected, rtol=1e-12)
        together = jax.vmap(closure, (0, None))(speeds, times)
        np.testing.assert_allclose(together, expected, rtol=1e-12)
        slopes = jax.vmap(jax.grad(zeta, 1), (None, 0))(0.7, times)
        np.testing.assert_allclose(slopes, rate(0.3, 0.7, times), rtol=1e-14)


def test_vmap_over_times_refines_one_mesh():
    schedule = numeric(Partial(rate, 0.3, 0.7))
    program = str(jax.make_jaxpr(jax.vmap(schedule.integral))(jnp.linspace(0, 1, 777)))
    assert "[777,16]" in program
    assert f"[777,{quadrature.PANELS}" not in program


# --- the house ----------------------------------------------------------------------------------

ALL = {
    **{name: make(*parameters) for name, (make, parameters, _, _) in CASES.items()},
    "numeric": numeric(Partial(rate, 0.3, 0.7), [2.0]),
    "warmup of numeric": warmup(2.0, Partial(rate, 0.3, 0.7)),
    "joined with numeric": join([0.2, Partial(rate, 0.3, 0.7)], [2.0]),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if "numeric" in name else name for name in ALL]
)
def test_pytree_dtype_and_shape(name):
    schedule = ALL[name]
    leaves, tree = jax.tree.flatten(schedule)
    hash(tree)
    assert leaves and all(isinstance(leaf, float) for leaf in leaves)
    assert jax.tree.flatten(jax.tree.unflatten(tree, leaves)) == (leaves, tree)
    times = np.linspace(0, 9, 6, dtype=np.float32).reshape(2, 3)
    plain = schedule.integral(times)
    jitted = jax.jit(lambda s, t: s.integral(t))(schedule, times)
    assert plain.dtype == jitted.dtype == schedule(times).dtype == jnp.float32
    assert plain.shape == schedule(times).shape == (2, 3)
    np.testing.assert_allclose(jitted, plain, rtol=1e-6)
    with jax.enable_x64(True):
        assert schedule.integral(times).dtype == schedule(times).dtype == jnp.float32
        assert schedule.integral(3).dtype == schedule(3).dtype == jnp.float64
        np.testing.assert_allclose(plain, schedule.integral(times.astype(float)), rtol=2e-6)


def test_parameters_never_recompile():
    @jax.jit
    @chex.assert_max_traces(n=2)  # one of each schedule
    def zeta(schedule):
        return schedule.integral(2.0)

    for x in (0.1, 0.2, 0.3):
        zeta(warmup(x, join([x, piecewise([x, x], [x + 1])], [x])))
    for x in (0.1, 0.2, 0.3):
        zeta(numeric(Partial(rate, x, x), [x]))


def test_constructors_inside_transformations():
    def zeta(x):
        inner = piecewise(jnp.stack([x, 2 * x]), [x])
        return warmup(x, inner, start=x).integral(4.0) + cosine(x, 10 * x).integral(4.0)

    xs = jnp.array([0.5, 1.0])
    batched = jax.jit(jax.vmap(jax.value_and_grad(zeta)))(xs)
    for i, x in enumerate(xs):
        value, slope = jax.value_and_grad(zeta)(float(x))
        assert batched[0][i] == pytest.approx(float(value), rel=1e-6)
        assert batched[1][i] == pytest.approx(float(slope), rel=1e-5)


def test_warmup_of_no_length():
    inner = cosine(0.1, 5.0)
    schedule = warmup(0.0, inner)
    np.testing.assert_array_equal(schedule(TIMES), inner(TIMES))
    np.testing.assert_array_equal(schedule.integral(TIMES), inner.integral(TIMES))
    slope = jax.grad(lambda n: warmup(n, inner).integral(3.0))(0.0)
    # Starting n later loses n eta(3) at the end and gains the triangle's n eta(0)/2.
    assert slope == pytest.approx(float(inner(0.0) / 2 - inner(3.0)), rel=1e-5)


def test_as_schedule():
    schedule = cosine(0.1, 5)
    assert as_schedule(schedule) is schedule
    assert as_schedule(0.1) == constant(0.1)
    assert as_schedule(np.float32(0.5)).integral(2) == 1.0
    assert as_schedule(optax.constant_schedule(0.5)).integral(2.0) == 1.0
    assert jax.jit(lambda x: as_schedule(x).integral(2.0))(0.5) == 1.0
    for wrong in ("0.1", None, [0.1], np.ones(2)):
        with pytest.raises(TypeError, match="number, a callable"):
            as_schedule(wrong)
    with pytest.raises(TypeError, match=r"build it inside the function that jax\.vmap maps over"):
        as_schedule(np.ones(2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constant(-0.1), ValueError, "value .*-0.1"),
        (lambda: constant(np.array([0.1, np.nan])), ValueError, "value"),
        (lambda: cosine(0.1, 0.0), ValueError, "horizon .*above 0"),
        (lambda: cosine(0.1, -5), ValueError, "horizon .*-5"),
        (lambda: cosine(0.1, 5, -0.1), ValueError, "floor"),
        (lambda: exponential(-1, 0.1), ValueError, "initial"),
        (lambda: exponential(1, np.inf), ValueError, "rate"),
        (lambda: polynomial(1, 5, power=0), ValueError, "power"),
        (lambda: polynomial(1, np.inf), ValueError, "horizon"),
        (lambda: polynomial(1, 5, final=-1), ValueError, "final"),
        (lambda: piecewise([1, 2], [1, 2]), ValueError, "2 values and 2 boundaries"),
        (lambda: piecewise([1, 2, 3], [2, 1]), ValueError, "ascending"),
        (lambda: piecewise([1, 2, 3], [2, 2]), ValueError, "ascending"),
        (lambda: piecewise([1, 2], [0]), ValueError, "boundaries .*above 0"),
        (lambda: piecewise([1, -2], [1]), ValueError, "values"),
        (lambda: piecewise(np.ones((2, 2)), [1]), ValueError, "one-dimensional"),
        (lambda: piecewise(1.0, [1]), TypeError, "sequence"),
        (lambda: warmup(-1, 0.1), ValueError, "length"),
        (lambda: warmup(1, 0.1, start=-0.1), ValueError, "start"),
        (lambda: warmup(1, "cosine"), TypeError, "callable"),
        (lambda: join([1.0, 2.0], [1, 2]), ValueError, "2 schedules and 2 boundaries"),
        (lambda: join([], []), ValueError, "0 schedules and 0 boundaries"),
        (lambda: join([1.0, 2.0, 3.0], [2, 1]), ValueError, "ascending"),
        (lambda: join([1.0, 2.0], [0]), ValueError, "boundaries .*above 0"),
        (lambda: join([1.0, -2.0], [1]), ValueError, "constant rate"),
        (lambda: join([1.0, "cosine"], [1]), TypeError, "number, a callable"),
        (lambda: join(1.0, [1]), TypeError, "sequence"),
        (lambda: warmup_stable_decay(-1, warmup=1, stable=1, decay=1), ValueError, "peak"),
        (lambda: warmup_stable_decay(1, warmup=-1, stable=1, decay=1), ValueError, "warmup"),
        (lambda: warmup_stable_decay(1, warmup=1, stable=-1, decay=1), ValueError, "stable"),
        (lambda: warmup_stable_decay(1, warmup=1, stable=1, decay=0), ValueError, "decay"),
        (lambda: warmup_stable_decay(1, warmup=1, stable=1, decay=1, floor=-1), ValueError, "floor"),
        (lambda: numeric(0.1), TypeError, "callable"),
        (lambda: numeric(lambda t: 1.0 if t < 5 else 0.1), TypeError, "jnp.where"),
        (lambda: numeric(lambda t: jnp.ones(2) * t), TypeError, "one real scalar"),
        (lambda: numeric(jnp.exp, [3.0, 1.0]), ValueError, "ascending"),
        (lambda: constant(0.1).integral(-1.0), ValueError, "t must"),
        (lambda: constant(0.1)(np.array([1.0, np.nan])), ValueError, "t must"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_examples():
    with warnings.catch_warnings():
        results = [doctest.testmod(module) for module in (constructors, joining, shapes)]
    assert sum(result.attempted for result in results) >= 14 and not any(result.failed for result in results)


# --- schedules one after another ----------------------------------------------------------------


def test_joined_rates_are_those_of_optax():
    parts = [optax.linear_schedule(0.0, 0.5, 10), optax.constant_schedule(0.5), optax.linear_schedule(0.5, 0.1, 20)]
    theirs, steps = optax.join_schedules(parts, [10, 40]), np.arange(90)
    expected = [theirs(k) for k in steps]
    for ours in (
        join([polynomial(0.0, 10, final=0.5), 0.5, polynomial(0.5, 20, final=0.1)], [10, 40]),
        warmup_stable_decay(0.5, warmup=10, stable=30, decay=20, floor=0.1),
    ):
        np.testing.assert_allclose(ours(steps), expected, rtol=1e-6)


def test_joined_equals_the_schedules_that_say_the_same():
    """Piecewise constant, warm-up, and one schedule that is alone or whose parts are joined themselves."""
    with jax.enable_x64(True):
        inner = cosine(0.3, 4.0)
        pairs = [
            (join([0.3, 0.0, 0.5], np.array([2.0, 5.5])), piecewise([0.3, 0.0, 0.5], [2.0, 5.5])),
            (join([polynomial(0.1, 2.5, final=0.3), inner], [2.5]), warmup(2.5, inner, 0.1)),
            (join([inner], []), inner),
            (join([join([0.3, 0.1], [2]), join([0.4, inner], [1])], [3]), join([0.3, 0.1, 0.4, inner], [2, 3, 4])),
        ]
        for one, other in pairs:
            np.testing.assert_allclose(one(TIMES), other(TIMES), rtol=1e-14)
            np.testing.assert_allclose(one.integral(TIMES), other.integral(TIMES), rtol=1e-14)
            np.testing.assert_allclose(one.breaks, other.breaks)


def test_joined_functions():
    """Integrated by quadrature, each on its own clock; a growing one is not asked for times after its end."""
    grows, falls = exponential(0.1, -300.0), Partial(rate, 0.3, 0.7)
    with jax.enable_x64(True):
        schedule = join([grows, numeric(falls, [0.5])], [1e-2])
        late = 0.1 * np.expm1(3.0) / 300 + closed(0.3, 0.7, TIMES - 1e-2)
        expected = np.where(TIMES < 1e-2, 0.1 * np.expm1(300 * np.minimum(TIMES, 1e-2)) / 300, late)
        np.testing.assert_allclose(schedule.integral(TIMES), expected, rtol=1e-12)
        np.testing.assert_allclose(schedule.breaks, [1e-2, 0.51])
        slopes = jax.vmap(jax.grad(schedule.integral))(jnp.asarray(TIMES))
        np.testing.assert_allclose(slopes, schedule(TIMES), rtol=1e-13)
        assert float(remaining(join([falls, cosine(0.1, 4.0)], [3.0]), 2.0)) == pytest.approx(
            float(closed(0.3, 0.7, 3.0) - closed(0.3, 0.7, 2.0)) + 0.2, rel=1e-9
        )


def test_breaks_of_traced_boundaries_stay_in_their_windows():
    with jax.enable_x64(True):
        found = jax.vmap(lambda x: jnp.stack(join([cosine(0.3, 4.0), 0.1], [x]).breaks))(jnp.array([3.0, 5.0]))
        np.testing.assert_array_equal(found, [[3.0, 3.0], [4.0, 5.0]])


@pytest.mark.parametrize(("rise", "stable"), [(0.0, 3.0), (2.0, 0.0), (0.0, 0.0)])
def test_rises_and_plateaus_of_no_length(rise, stable):
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    with jax.enable_x64(True):
        schedule = warmup_stable_decay(0.5, warmup=rise, stable=stable, decay=2.0, floor=0.1)
        fallen = np.clip((times - rise - stable) / 2, 0, 1)
        expected = np.where(times < rise, 0.5 * times / max(rise, 1.0), 0.5 - 0.4 * fallen)
        np.testing.assert_allclose(schedule(times), expected, rtol=1e-14)
        slopes = jax.vmap(jax.grad(schedule.integral))(times)
        np.testing.assert_allclose(slopes, expected, rtol=1e-14)
    assert float(remaining(schedule, 0.0)) == np.inf
    ends = warmup_stable_decay(0.5, warmup=rise, stable=stable, decay=2.0)
    assert float(remaining(ends, 0.0)) == pytest.approx(0.5 * (rise / 2 + stable + 1.0))
