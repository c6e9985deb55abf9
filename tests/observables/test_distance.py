"""Distances between a state and a direction against decimal arithmetic, from 2 down to 1e-347."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.observables import OBSERVABLES, View
from unhinged_jax.observables import distance as of_directions
from unhinged_jax.observables.distance import Split, log_distance, reference, split_part, turned
from unhinged_jax.observables.plane_features import PlaneFeatures

RNG = np.random.default_rng(1)
SHAPES = [(4, 3), (), (2, 3)]
RAW = [RNG.normal(size=shape) for shape in SHAPES]
DIRECTION = [x / np.sqrt(sum(np.sum(y**2) for y in RAW)) for x in RAW]
REST = [RNG.normal(size=shape) for shape in SHAPES]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def split(sign=1.0, log_amplitude=0.0, log_rest=0.0, direction=DIRECTION, rest=REST, whole=None):
    """The state over e^log_amplitude is the whole, unless another is given."""
    if whole is None:
        whole = [sign * d + np.exp(log_rest - log_amplitude) * x for d, x in zip(direction, rest, strict=True)]
    parts = [[jnp.asarray(x) for x in part] for part in (direction, rest, whole)]
    return Split(parts[0], parts[1], *(jnp.asarray(x) for x in (log_amplitude, sign, log_rest)), parts[2])


def distance(sign, log_amplitude, log_rest, direction, rest):
    """log | Z / |Z| - d / |d| | of Z = sign e^log_amplitude d + e^log_rest X."""

    def flat(parts):
        return [Decimal(float(x)) for part in parts for x in np.ravel(part)]

    with localcontext(prec=800):
        d, X = flat(direction), flat(rest)
        lead, shrink = Decimal(sign) * Decimal(log_amplitude).exp(), Decimal(log_rest).exp()
        Z = [lead * a + shrink * x for a, x in zip(d, X, strict=True)]
        size, length = sum(z * z for z in Z).sqrt(), sum(a * a for a in d).sqrt()
        return float(sum((z / size - a / length) ** 2 for z, a in zip(Z, d, strict=True)).sqrt().ln())


LENGTH = np.sqrt(sum(np.sum(x**2) for x in REST))
SIZES = [
    (0.0, -800.0), (5.0, -80.0), (0.0, np.log(9.5e-4 / LENGTH)), (0.0, np.log(1.1e-3 / LENGTH)), (1.0, -2.0),
    (0.0, 0.0), (0.0, 4.0), (900.0, 880.0),
]  # fmt: skip
log_distance_compiled = jax.jit(log_distance)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_distances_near_and_far(sign):
    for log_amplitude, log_rest in SIZES:
        got = float(log_distance_compiled(split(sign, log_amplitude, log_rest)))
        want = distance(sign, log_amplitude, log_rest, DIRECTION, REST)
        assert got == pytest.approx(want, rel=1e-15, abs=3e-14), (log_amplitude, log_rest)


@pytest.mark.parametrize("which", [slice(0, -1), slice(-1, None)])
def test_distances_of_a_part_are_those_of_its_own_direction(which):
    for log_amplitude, log_rest in SIZES[:-1]:
        got = float(jax.jit(lambda s: log_distance(split_part(s, which)))(split(-1.0, log_amplitude, log_rest)))
        want = distance(-1.0, log_amplitude, log_rest, DIRECTION[which], REST[which])
        assert got == pytest.approx(want, rel=1e-15, abs=3e-14), (log_amplitude, log_rest)


@pytest.mark.parametrize("cancel", [False, True])
def test_many_numbers_have_the_distances_of_few(monkeypatch, cancel):
    """Where amplitude and rest cancel, and where they do not; for one state and for two at once; and derivatives."""
    rest = [x - d if cancel else x for x, d in zip(REST, DIRECTION, strict=True)]

    def found():
        value, slope = jax.value_and_grad(lambda log: log_distance(split(-1.0, 0.3, log, rest=rest, whole=REST)))(0.3)
        return (
            value,
            slope,
            jax.vmap(lambda log: log_distance(split(1.0, 0.3, log, rest=rest, whole=REST)))(jnp.asarray([0.3, -2.0])),
        )

    few = found()
    monkeypatch.setattr(of_directions, "_FEW", 0)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-13), found(), few)


def test_derivatives_where_one_part_is_far_smaller_than_the_other():
    """At the start, where the tiny part is all that its own distance would divide by, and after it."""
    model = uj.regularized(uj.from_counts([4, 2, 1]), 4, decay=0.1)
    start = model.init(jax.random.key(1))

    def of(size, decay):
        tiny = uj.State(start.H, 1e-170 * size * start.W, start.b)
        return uj.exact(model.replace(decay=decay), uj.Flow(), tiny, [0.0, 3.0], "log_distance")["log_distance"]

    for place in (0, 1):
        by_size, by_decay = jax.grad(lambda *given: of(*given)[place], (0, 1))(1.0, 0.1)  # noqa: B023
        assert np.isfinite(by_size) and abs(by_decay) < 1e-12


def test_where_amplitude_and_rest_cancel_the_whole_is_compared():
    """The rest is minus the direction but for 1e-9, which the whole knows to all digits."""
    small = [1e-9 * x for x in REST]
    rest = [x - d for x, d in zip(small, DIRECTION, strict=True)]
    got = float(log_distance_compiled(split(rest=rest, whole=REST)))
    assert got == pytest.approx(distance(0.0, 0.0, 0.0, DIRECTION, REST), rel=1e-12)


def test_where_there_is_no_direction_there_is_no_distance():
    nothing = [0 * x for x in REST]
    assert np.isnan(log_distance_compiled(split(direction=nothing)))
    assert np.isnan(log_distance_compiled(split(sign=0.0, log_amplitude=-np.inf, rest=nothing, whole=nothing)))
    assert float(log_distance_compiled(split(rest=nothing))) == -np.inf
    along = [2 * d for d in DIRECTION]
    assert float(log_distance_compiled(split(-1.0, rest=nothing))) == pytest.approx(np.log(2), rel=1e-14)
    assert float(log_distance_compiled(split(-1.0, rest=along))) < np.log(1e-15)


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_a_reference_is_the_leading_part_of_the_first_start(turn):
    """e^log_start (turn d + beside) is e^log_scale times the origin; a turned split is the same state."""
    origin = [turn * (3 * d + 0.01 * x) for d, x in zip(DIRECTION, REST, strict=True)]
    found = reference([jnp.asarray(d) for d in DIRECTION], [jnp.asarray(x) for x in origin], jnp.asarray(0.7))
    assert float(found.turn) == turn
    for d, beside, x in zip(DIRECTION, found.beside, origin, strict=True):
        np.testing.assert_allclose(np.exp(found.log_start) * (turn * d + beside), np.exp(0.7) * x, rtol=1e-12)
    inner = sum(np.sum(d * b) for d, b in zip(DIRECTION, found.beside, strict=True))
    assert abs(inner) < 1e-15  # what is beside the direction is across it
    after = turned(split(-1.0, 0.3), found.turn)
    for d, after_d in zip(DIRECTION, after.direction, strict=True):
        np.testing.assert_allclose(after.sign * after_d, -d, rtol=1e-15)
    assert float(after.sign) == -turn


def test_another_dynamics_has_a_direction_of_its_own():
    """A first start across the direction stays what it is: no turn, and nothing is taken as its share."""
    across = [
        x - sum(np.sum(d * y) for d, y in zip(DIRECTION, REST, strict=True)) * d
        for x, d in zip(REST, DIRECTION, strict=True)
    ]
    size = np.sqrt(sum(np.sum(x**2) for x in across))
    found = reference([jnp.asarray(d) for d in DIRECTION], [jnp.asarray(x) for x in across], jnp.asarray(0.0))
    assert float(found.turn) == 1 and float(found.log_start) == pytest.approx(np.log(size), rel=1e-14)
    for d, beside, x in zip(DIRECTION, found.beside, across, strict=True):
        np.testing.assert_allclose(d + beside, x / size, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "units", [[-900.0, -901.0, -899.5], [-900.0, -40.0, -1.0], [-38.0, -37.0, -30.0], [0.0, 0.4, -0.3]]
)
@pytest.mark.parametrize("pulled", [[1, 1, 1], [1, 0, 1]])
def test_angles_of_spherical_features_below_any_number(units, pulled):
    """log of the norm of 2 sin(phi_i / 2), where tan(phi_i) = e^unit across / along; what nothing pulls counts 0."""
    along, across = np.array([0.4, 1.3, 2.0]), np.array([3.0, -0.5, 0.7])
    W = np.eye(3)
    model = uj.spherical(uj.balanced(3, 1), 3, gamma=0.0)  # the target of a sample is its prototype
    target = np.reshape(pulled, (3, 1)) * W
    given = [jnp.asarray(x) for x in (along, across, target, np.roll(W, 1, axis=1))]
    plane = PlaneFeatures(*given, log_unit=jnp.asarray(units))
    view = View(model, plane, jnp.asarray(W), jnp.zeros(3), jnp.zeros(()))
    got = float(jax.jit(OBSERVABLES["log_distance"].compute)(view))
    with localcontext(prec=900):
        tangents = [
            Decimal(u).exp() * Decimal(abs(x)) / Decimal(a) for u, x, a in zip(units, across, along, strict=True)
        ]
        # 4 sin^2(phi / 2) = 2 (1 - cos(phi))
        squares = [2 * moved * (1 - 1 / (1 + t * t).sqrt()) for t, moved in zip(tangents, pulled, strict=True)]
        assert got == pytest.approx(float(sum(squares).sqrt().ln()), rel=1e-13, abs=1e-12)
