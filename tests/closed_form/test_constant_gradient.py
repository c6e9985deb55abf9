"""Optimisers whose gradient is constant: against NumPy loops, runs that are simulated, and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.derivatives.sensitivities import disagreement

LABELS = uj.from_counts([3, 2, 2])
MODELS = {
    "frozen": uj.frozen(LABELS, 4, gamma=0.2, bias=True),
    "anchored": uj.anchored(LABELS.symmetric_noise(0.1), 4, gamma=0.3),
}
TIMES = [0, 1, 3, 20, 30]


def start(model, unit=1.0, precision="float64"):
    bias = [0.3, -0.2, 0.1] if model.bias else None
    return model.init(jax.random.key(0), bias=bias, scale=unit, precision=precision)


def rate(k):
    """That of `WAVE`."""
    return 0.06 + 0.04 * np.cos(np.pi * min(k, 40) / 40)


WAVE = uj.cosine(0.1, 40, 0.02)


def signal(model):
    with jax.enable_x64(True):
        return np.asarray(model.signal().dense("float64"))


def turned(g):
    """g (g^T g)^(-1/2), where a singular value that is only rounding counts as 0."""
    squares, vectors = np.linalg.eigh(g.T @ g)
    there = squares > 1e-12 * squares[-1]
    return g @ vectors[:, there] / np.sqrt(squares[there]) @ vectors[:, there].T


class Loop:
    """One update of each optimiser after the other, as their papers write them; `u` is what a unit rate subtracts."""

    def __init__(self, name, parts, numbers):
        self.name, self.numbers, self.k = name, numbers, 0
        first = numbers.get("initial_accumulator_value", numbers.get("initial_scale", 0.0))
        self.m = {key: np.zeros_like(part) for key, part in parts.items()}
        self.v = {key: np.full_like(part, first) for key, part in parts.items()}

    def updates(self, gradients):
        size = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
        found = {key: getattr(self, self.name)(key, g, size, **self.numbers) for key, g in gradients.items()}
        self.k += 1
        return found

    def adamw(self, key, g, size, b1, b2, eps, eps_root=0.0, weight_decay=0.0, ahead=False):
        self.m[key] = b1 * self.m[key] + (1 - b1) * g
        self.v[key] = b2 * self.v[key] + (1 - b2) * g**2
        mean, square = (x[key] / (1 - b ** (self.k + 1)) for x, b in ((self.m, b1), (self.v, b2)))
        if ahead:
            mean = b1 * self.m[key] / (1 - b1 ** (self.k + 2)) + (1 - b1) * g / (1 - b1 ** (self.k + 1))
        return mean / (np.sqrt(square + eps_root) + eps)

    adam = adamw

    def nadamw(self, key, g, size, **numbers):
        return self.adamw(key, g, size, ahead=True, **numbers)

    def adamaxw(self, key, g, size, b1, b2, eps, weight_decay):
        self.m[key] = b1 * self.m[key] + (1 - b1) * g
        self.v[key] = np.maximum(b2 * self.v[key], np.abs(g) + eps)
        return self.m[key] / (1 - b1 ** (self.k + 1)) / self.v[key]

    def sign_sgd(self, key, g, size):
        return np.sign(g)

    def lion(self, key, g, size, b1, b2, weight_decay):
        u, self.m[key] = np.sign((1 - b1) * g + b1 * self.m[key]), b2 * self.m[key] + (1 - b2) * g
        return u

    def adagrad(self, key, g, size, initial_accumulator_value, eps):
        self.v[key] = self.v[key] + g**2
        return g / np.sqrt(self.v[key] + eps)

    def rmsprop(self, key, g, size, decay, eps, initial_scale):
        self.v[key] = decay * self.v[key] + (1 - decay) * g**2
        return g / np.sqrt(self.v[key] + eps)

    def corrected(self, key, g, size, decay, eps, initial_scale, **settings):
        self.rmsprop(key, g, size, decay, eps, initial_scale)
        return g / (np.sqrt(self.v[key] / (1 - decay ** (self.k + 1))) + eps)

    def sgd(self, key, g, size, momentum, nesterov):
        self.m[key] = g + momentum * self.m[key]
        return g + momentum * self.m[key]

    def spectral_descent(self, key, g, size, weight_decay):
        return turned(g) if g.ndim == 2 else g / np.linalg.norm(g)

    def normalized_descent(self, key, g, size):
        return g / size

    def clipped_descent(self, key, g, size, max_norm):
        return g * min(1, max_norm / size)


ADAM = {"b1": 0.8, "b2": 0.95, "eps": 1e-2}
OPTIMIZERS = {
    "adam": (optax.adam, {**ADAM, "eps_root": 1e-3}),
    "adamw": (optax.adamw, {**ADAM, "eps_root": 1e-3, "weight_decay": 0.3}),
    "nadamw": (optax.nadamw, {**ADAM, "eps_root": 1e-3, "weight_decay": 0.3}),
    "adamaxw": (optax.adamaxw, {**ADAM, "weight_decay": 0.3}),
    "sign_sgd": (optax.sign_sgd, {}),
    "lion": (optax.lion, {"b1": 0.9, "b2": 0.95, "weight_decay": 0.3}),
    "adagrad": (optax.adagrad, {"initial_accumulator_value": 0.05, "eps": 1e-3}),
    "rmsprop": (optax.rmsprop, {"decay": 0.9, "eps": 1e-3, "initial_scale": 0.2}),
    "corrected": (
        optax.rmsprop,
        {"decay": 0.9, "eps": 1e-3, "initial_scale": 0.2, "bias_correction": True, "eps_in_sqrt": False},
    ),
    "sgd": (optax.sgd, {"momentum": 0.8, "nesterov": True}),
    "spectral_descent": (uj.spectral_descent, {"weight_decay": 0.3}),
    "normalized_descent": (uj.normalized_descent, {}),
    "clipped_descent": (uj.clipped_descent, {"max_norm": 0.05}),
}
RATES = {"H": 0.9, "W": 1.3, "b": 0.6}


def descent(name, waves, **changes):
    """At equal rates, or with two schedules, that of the optimiser and that of the descent."""
    make, numbers = OPTIMIZERS[name]
    optimizer = uj.Optimizer(make, learning_rate=WAVE if waves else 0.1, **{**numbers, **changes})
    rates = {"rate_H": RATES["H"], "rate_W": RATES["W"]}
    return uj.Descent(uj.cosine(0.5, 40, 0.1) if waves else 0.7, optimizer=optimizer, rate_b=RATES["b"], **rates)


def looped(name, model, state, numbers, rates, times=TIMES, kernel=None):
    """H, W and b after the updates, by the loop; `rates` is k -> rate of each part, the optimiser's multiplied in."""
    M = signal(model)
    parts = {key: np.asarray(getattr(state, key), float) for key in ("H", "W", "b")}
    pull = M @ parts["W"]
    gradients = {"H": -(pull if kernel is None else kernel @ pull), "W": -M.T @ parts["H"], "b": -M.sum(axis=0)}
    gradients = {key: gradients[key] for key, moves in model.moves._asdict().items() if moves}
    loop, found = Loop(name, gradients, numbers), {}
    for k in range(times[-1] + 1):
        if k in times:
            found[k] = dict(parts)
        for key, u in loop.updates(gradients).items():
            parts[key] = parts[key] - rates(k)[key] * (u + numbers.get("weight_decay", 0.0) * parts[key])
    return {key: np.stack([found[k][key] for k in times]) for key in parts}


def rates_of(waves):
    """k -> rates of `descent`."""

    def at(k):
        return (0.1 + 0.4 * (rate(k) - 0.02) / 0.08) * rate(k) if waves else 0.7 * 0.1

    return lambda k: {key: at(k) * own for key, own in RATES.items()}


def compare(run, want, tolerance):
    for key in ("H", "W", "b"):
        np.testing.assert_allclose(getattr(run, key), want[key], rtol=tolerance, atol=tolerance, err_msg=key)


CHEAP = {
    ("adamw", "frozen", False),
    ("adam", "anchored", True),
    ("nadamw", "frozen", True),
    ("adagrad", "frozen", True),
    ("spectral_descent", "anchored", False),
}


@pytest.mark.parametrize(
    ("name", "case", "waves"),
    [
        pytest.param(*key, marks=() if key in CHEAP else pytest.mark.long)
        for key in ((name, case, waves) for name in OPTIMIZERS for case in MODELS for waves in (False, True))
    ],
)
def test_closed_form_is_the_loop(name, case, waves):
    model = MODELS[case]
    run = uj.exact(model, descent(name, waves), start(model), TIMES, (), states=True)
    compare(run.states, looped(name, model, start(model), OPTIMIZERS[name][1], rates_of(waves)), 1e-13)


LAYOUTS = {
    "counts": lambda rng: uj.from_counts([3, 1, 2]),
    "weights": lambda rng: uj.from_counts([2, 2, 3]).weighted(samples=rng.uniform(0.5, 2.0, 7)),
    "noise": lambda rng: uj.balanced(3, 2).symmetric_noise(rng.uniform(0, 0.3)),
    "soft": lambda rng: uj.soft(rng.dirichlet(np.ones(3), size=6)),
}


@pytest.mark.long
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_random_problems(number):
    """Four problems of each optimiser and one kind of labels, with random numbers, rates and starts."""
    name, layout = list(OPTIMIZERS)[number], list(LAYOUTS)[number % 4]
    make, numbers = OPTIMIZERS[name]
    for draw in range(4):
        rng = np.random.default_rng([number, draw])
        labels, gamma, dim = LAYOUTS[layout](rng), rng.uniform(0.05, 1.5), 4
        moving = (uj.frozen, uj.anchored)[number % 2]
        model = moving(labels, dim, gamma=gamma, **({} if number % 2 else {"bias": True}))
        kernel = None
        if number % 4 == 1:
            factor = rng.normal(size=(labels.samples, labels.samples))
            kernel = factor @ factor.T / 7
            model = model.replace(kernel=kernel)
        shapes = (labels.samples, dim), (3, dim)
        H, W = (rng.normal(size=shape) * rng.choice([0.1, 1.0, 10.0]) for shape in shapes)
        state = uj.State(H, W, rng.normal(size=3) * (not number % 2))
        drawn = {key: x if isinstance(x, bool) else 1 - (1 - x) * rng.uniform(0.5, 1.5) if key in ("b1", "b2", "decay")
                 else x * rng.uniform(0.3, 2.0) for key, x in numbers.items()}  # fmt: skip
        if "momentum" in drawn:
            drawn["momentum"] = rng.uniform(0.1, 0.9)
        peak, r1, r2 = rng.uniform(0.05, 0.3), rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0)
        optimizer = uj.Optimizer(make, learning_rate=uj.exponential(peak, 0.03), **drawn)
        dynamics = uj.Descent(uj.cosine(1.0, 50), optimizer=optimizer, rate_H=r1, rate_W=r2)
        run = uj.exact(model, dynamics, state, TIMES, (), states=True)

        def rates(k, peak=peak, r1=r1, r2=r2):
            eta = peak * np.exp(-0.03 * k) * (1 + np.cos(np.pi * k / 50)) / 2
            return {"H": eta * r1, "W": eta * r2, "b": eta * r2}

        compare(run.states, looped(name, model, state, drawn, rates, kernel=kernel), 1e-10)


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_simulated_run_is_the_same_and_each_goes_on_from_the_other(name):
    """The memory, too, is that of optax; and in float32."""
    waves = list(OPTIMIZERS).index(name) % 2 == 0
    model, dynamics = MODELS["frozen" if waves else "anchored"], descent(name, waves)
    whole = uj.exact(model, dynamics, start(model), TIMES, ["norm", "loss"], states=True)
    simulated = uj.simulate(model, dynamics, start(model), TIMES, ["norm", "loss"], states=True)
    assert uj.verify(simulated, whole).worst < 1e-13
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), whole.memory, simulated.memory)
    for first in (uj.exact, uj.simulate):
        for second in (uj.exact, uj.simulate):
            middle = first(model, dynamics, start(model), [3], "norm")
            later = second(model, dynamics, middle, TIMES[3:], "norm", states=True)
            compare(later.states, {key: getattr(whole.states, key)[3:] for key in ("H", "W", "b")}, 1e-12)
    narrow = uj.exact(model, dynamics, start(model, precision="float32"), TIMES, ["norm", "loss"])
    assert narrow["norm"].dtype == np.float32
    wide = uj.exact(model, dynamics, start(model, precision="float32"), TIMES, ["norm", "loss"], precision="float64")
    for seen in ("norm", "loss"):
        np.testing.assert_allclose(narrow[seen], wide[seen], rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_run_goes_on_from_the_memory_of_another_problem():
    """AdamW has seen other gradients before, which its averages forget in time."""
    before, after = MODELS["frozen"].replace(gamma=0.9), MODELS["frozen"]
    dynamics = descent("adamw", True)
    middle = uj.simulate(before, dynamics, start(before), [3], ())
    runs = [solve(after, dynamics, middle, [4, 9, 30], ["norm_W", "norm_b"]) for solve in (uj.simulate, uj.exact)]
    assert uj.verify(*runs).worst < 1e-13
    fresh = uj.exact(after, dynamics, middle.final, [1], "norm_W")
    assert abs(float(fresh["norm_W"][0] / runs[1]["norm_W"][0]) - 1) > 1e-3


@pytest.mark.parametrize(
    ("precision", "unit"),
    [("float64", 1e-200), ("float64", 1e200), pytest.param("float32", 1e25, marks=pytest.mark.long)],
)
def test_sizes_of_states_whose_squares_leave_the_range(precision, unit):
    """An epsilon counts beside a small gradient, and not beside a large one; no square is formed."""
    model = MODELS["anchored"]
    state = start(model, unit, precision)
    g = -signal(model) @ (np.asarray(state.W, float) / unit)
    u = g / (np.abs(g) + 1e-2 / unit)
    run = uj.exact(model, descent("adam", False, eps_root=0.0), state, [10], (), states=True)
    want = np.asarray(state.H, float) - 10 * 0.7 * 0.9 * 0.1 * u
    np.testing.assert_allclose(run.final.H / unit, want / unit, rtol=1e-12 if precision == "float64" else 1e-5)


def test_trillions_of_updates_and_where_they_end():
    """AdamW comes to rest at -u / lambda; the bias, whose rate is another, too."""
    model, dynamics = MODELS["frozen"], descent("adamw", False)
    run = uj.exact(model, dynamics, start(model), [10**5, 2 * 10**12], "norm_W")
    M = signal(model)
    g = {"W": -M.T @ start(model).H, "b": -M.sum(axis=0)}
    want = {key: -part / (np.sqrt(part**2 + 1e-3) + 1e-2) / 0.3 for key, part in g.items()}
    for key in ("W", "b"):
        np.testing.assert_allclose(getattr(run.final, key), want[key], rtol=1e-13)
    found = uj.limit(model, dynamics, start(model))
    np.testing.assert_allclose(found.direction.W, want["W"] / np.linalg.norm(want["W"]), rtol=1e-13)
    np.testing.assert_allclose(found.direction.b, want["b"], rtol=1e-13)
    assert found.side == "converges"
    np.testing.assert_allclose([found.rate_W, found.exponent], [-np.log1p(-0.7 * 1.3 * 0.1 * 0.3), 0.0], rtol=1e-13)
    assert int(run.memory[0].count) == 2**31 - 1  # as optax counts


@pytest.mark.parametrize(
    ("name", "changes", "side", "note"),
    [
        ("adagrad", {"initial_accumulator_value": 1e-9, "eps": 1e-12}, "grows", "like the square root"),
        pytest.param("sign_sgd", {}, "grows", "in proportion", marks=pytest.mark.long),
        pytest.param(
            "lion", {"weight_decay": 40.0}, "grows", "its sign changes with every update", marks=pytest.mark.long
        ),
        ("lion", {"weight_decay": 10.0}, "converges", ""),
    ],
)
def test_limits(name, changes, side, note):
    """The direction in which a long run ends, how fast it gets there, and how its norm grows."""
    model, dynamics = MODELS["anchored"], descent(name, False, **changes)
    found = uj.limit(model, dynamics, start(model))
    late = [4000, 4002] if found.rate == 0 else [2 * int(10 / found.rate), 2 * int(11 / found.rate)]
    runs = [uj.exact(model, dynamics, start(model), [k], "log_norm_H") for k in late]
    ends = [np.asarray(run.final.H, float) for run in runs]
    apart = [np.linalg.norm(end / np.linalg.norm(end) - found.direction.H) for end in ends]
    assert found.side == side and note in found.note and apart[1] < (0.3 if found.rate == 0 else 1e-3)
    if found.rate > 0:
        assert -np.log(apart[1] / apart[0]) / (late[1] - late[0]) == pytest.approx(float(found.rate), rel=0.02)
        slope = float(runs[1]["log_norm_H"][0] - runs[0]["log_norm_H"][0]) / (late[1] - late[0])
        assert slope == pytest.approx(float(found.exponent), abs=1e-4)


@pytest.mark.parametrize("decay", [2.0, 2.1])
def test_limit_of_steps_that_overshoot_from_a_state_with_a_scale_of_its_own(decay):
    """At twice the step that would end in one update the run alternates; above that it leaves."""
    model = uj.anchored(LABELS, 4, gamma=0.3)
    state = start(model).replace(log_scale=2.0)
    dynamics = uj.Descent(optimizer=uj.Optimizer(optax.adamw, learning_rate=1.0, weight_decay=decay))
    found, run = uj.limit(model, dynamics, state), uj.exact(model, dynamics, state, [200], (), states=True)
    end = np.asarray(run.final.H) / np.linalg.norm(run.final.H)
    np.testing.assert_allclose(found.direction.H, end, atol=1e-6)


@pytest.mark.parametrize("momentum", [1.0, 0.9999])
def test_momentum_at_and_near_1(momentum):
    """The sum of its powers is no quotient by 1 - beta: that is 0 / 0, or in float32 keeps four digits."""
    model = uj.frozen(LABELS, 4, gamma=0.2)
    state = start(model, precision="float32").replace(W=np.zeros((3, 4), np.float32))
    dynamics = uj.Descent(0.7, optimizer=uj.Optimizer(optax.sgd, learning_rate=0.1, momentum=momentum))
    run, total, trace = uj.exact(model, dynamics, state, [1, 5, 20], "norm_W"), [0.0], 0.0
    for _ in range(20):
        trace = 1 + momentum * trace
        total.append(total[-1] + 0.07 * trace)
    want = np.array(total)[[1, 5, 20]] * np.linalg.norm(signal(model).T @ np.asarray(state.H, float))
    np.testing.assert_allclose(run["norm_W"], want, rtol=2e-6)


def test_a_bias_without_a_gradient_stays():
    """Every class pulls at every bias alike; the sign of what rounding leaves of their sum is no step."""
    model = uj.frozen(uj.balanced(7, 3), 6, bias=True)
    dynamics = uj.Descent(optimizer=uj.Optimizer(optax.sign_sgd, learning_rate=0.1))
    for solve in (uj.exact, uj.simulate):
        assert solve(model, dynamics, model.init(jax.random.key(0)), [5], "norm_b")["norm_b"] == 0


@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(name, marks=pytest.mark.long) for name in ("rmsprop", "adagrad"))]
)
def test_derivatives_of_a_run_that_goes_on_beside_a_sample_without_weight(name):
    """Its gradient is 0 and so is its memory, where a root has no derivative of its own."""
    labels = LABELS.weighted(samples=[1, 0, 1, 1, 1, 1, 1])
    model = uj.anchored(labels, 4, gamma=0.3)
    changes = {"adam": {"eps_root": 0.0}, "rmsprop": {"eps": 1e-3}, "adagrad": {"eps": 0.0}}[name]
    begin = {"rmsprop": {"initial_scale": 0.0}, "adagrad": {"initial_accumulator_value": 0.0}}.get(name, {})
    if name == "rmsprop":
        begin["eps_in_sqrt"] = False
    dynamics = descent(name, False, **changes, **begin)
    with jax.enable_x64(True):
        middle = uj.exact(model, dynamics, start(model), [3], ())

        def loss(gamma):
            return uj.exact(model.replace(gamma=gamma), dynamics, middle, [9], "loss")["loss"][0]

        slope, step = jax.grad(loss)(0.3), 1e-5
        assert float(slope) == pytest.approx(float(loss(0.3 + step) - loss(0.3 - step)) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("decay", [3.0, 0.1])
def test_growth_beyond_the_range_of_numbers_and_none(decay):
    """A decay so large that every update overshoots, |1 - x|^3000 = e^2080, and one that lets the prototypes rest.

    The bias moves at half the rate, and comes to rest.
    """
    model = uj.frozen(LABELS, 4, gamma=0.2, bias=True)
    logs = []
    for schedule in (1.0, uj.piecewise([1.0, 1.0], [10])):
        optimizer = uj.Optimizer(optax.adamw, learning_rate=1.0, weight_decay=decay)
        dynamics = uj.Descent(schedule, optimizer=optimizer, rate_b=0.5)
        run = uj.exact(model, dynamics, start(model), [3000], "log_norm_W")
        np.testing.assert_allclose(run.final.b, np.sign(signal(model).sum(axis=0)) / decay, rtol=1e-6)
        logs.append(float(run["log_norm_W"][0]))
    g = -signal(model).T @ start(model).H
    rest = -g / (np.abs(g) + 1e-8) / decay
    grown = 3000 * np.log(2) + np.log(np.linalg.norm(start(model).W - rest))
    np.testing.assert_allclose(logs, grown if decay > 2 else np.log(np.linalg.norm(rest)), rtol=1e-13)


REFUSED = {
    "both move": (uj.unconstrained(LABELS, 4), descent("adam", False), "with features frozen or prototypes anchored"),
    "decay of the model": (
        uj.frozen(LABELS, 4, decay=0.1), descent("adam", False), r"decay_W = 0\.1 is part of the gradient"
    ),
    "decay of the bias": (
        uj.frozen(LABELS, 4, bias=True).replace(decay_b=0.2), descent("adam", False), r"decay_b = 0\.2 is part"
    ),
    "on the sphere": (uj.spherical(LABELS, 4), descent("adam", False), "spherical features"),
    "built already": (
        uj.frozen(LABELS, 4), uj.Descent(optimizer=optax.adam(0.1)), r"built already.*uj\.Optimizer\(optax\.adam, lear"
    ),
    "not known": (
        uj.frozen(LABELS, 4), uj.Descent(optimizer=uj.Optimizer(optax.adabelief, learning_rate=0.1)),
        "nothing is known of the optimiser 'adabelief'; those with a closed form are adagrad, adam, adamax",
    ),
    "a mask": (uj.frozen(LABELS, 4), descent("adamw", False, mask=dict.fromkeys("HWb", True)), "setting `mask`"),
    "a narrow moment": (uj.frozen(LABELS, 4), descent("adam", False, mu_dtype="bfloat16"), "setting `mu_dtype`"),
    "momentum of rmsprop": (uj.frozen(LABELS, 4), descent("rmsprop", False, momentum=0.5), "setting `momentum`"),
    "batches": (
        uj.frozen(LABELS, 4), uj.Descent(batch=2, optimizer=descent("adam", False).optimizer), "bends the noise"
    ),
    "a loss that is not linear": (
        uj.frozen(LABELS, 4, loss="cross_entropy"), descent("adam", False), "not linear in the logits"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_closed_form_says_why(case):
    model, dynamics, words = REFUSED[case]
    for ask in (lambda: uj.exact(model, dynamics, start(model), [1]), lambda: uj.limit(model, dynamics, start(model))):
        with pytest.raises(uj.NoClosedForm, match=words):
            ask()


@pytest.mark.long
def test_a_sweep_over_a_decay_of_the_optimizer_is_exact(tmp_path):
    def plan(axis):
        return uj.SweepPlan.of({
            "model": {"case": "frozen", "dim": 4, "gamma": 0.2},
            "labels": {"layout": "counts", "counts": [3, 2, 2]},
            "dynamics": {"kind": "descent", "optimizer": {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3}},
            "run": {"times": [0, 10**7], "observe": ["norm_W"], "precision": "float64"},
            "sweep": {"method": "exact", "grid": axis},
        })  # fmt: skip

    decays = plan({"dynamics.optimizer.weight_decay": [0.1, 0.2]})
    found = uj.sweep(decays, tmp_path / "a.zarr", workers=0, progress=False).load()["norm_W"].values.reshape(2, 2)
    assert found[0, 1] / found[1, 1] == pytest.approx(2.0, rel=1e-12)  # the same u over lambda
    with pytest.raises(ValueError, match=r"no longer constant if 'model\.decay' changes"):
        uj.sweep(plan({"model.decay": [0.0, 0.1]}), tmp_path / "b.zarr", workers=0, progress=False)


def test_a_decay_that_is_traced_is_nan_and_so_is_its_derivative():
    model = MODELS["anchored"]

    def norm(decay):
        changed = model.replace(decay=(decay, 0.0))
        return uj.exact(changed, descent("adam", False), start(model, precision="float32"), [3], "norm_H")["norm_H"][0]

    both = jax.jit(jax.value_and_grad(norm))
    (value, slope), (beyond, _) = both(0.0), both(0.1)
    assert np.isfinite(value) and np.isnan(slope) and np.isnan(beyond)
    with pytest.raises(uj.NoClosedForm, match="no longer constant if 'decay_H' changes"):
        uj.sensitivity(model, descent("adam", False), start(model), [3], "norm_H", ["decay_H"], sources="exact")


@pytest.mark.long
@pytest.mark.parametrize("name", ["adam", "adagrad", "spectral_descent"])
@pytest.mark.parametrize("waves", [False, True])
def test_derivatives_are_those_of_the_simulated_run(name, waves):
    model, dynamics = MODELS["anchored"], descent(name, waves)
    rates = ["schedule.peak"] if waves else ["optimizer.learning_rate", "eta"]
    names = ["gamma", "noise", "rate_H", "W", *rates, *(["optimizer.eps"] * (name != "spectral_descent"))]
    table = uj.sensitivity(model, dynamics, start(model), [20], ["norm_H", "loss"], names)
    assert max(disagreement(table).values()) < 1e-11


def test_derivatives_are_those_of_differences():
    """In reverse mode, with respect to the loss, the rates outside and inside the optimiser, and its epsilon."""
    model, state = MODELS["anchored"], start(MODELS["anchored"])

    def loss(x):
        optimizer = uj.Optimizer(optax.adam, learning_rate=x[2], eps=x[3])
        return uj.exact(model.replace(gamma=x[0]), uj.Descent(x[1], optimizer=optimizer), state, [20], "loss")["loss"][
            0
        ]

    with jax.enable_x64(True):
        both, point = jax.jit(jax.value_and_grad(loss)), jnp.array([0.3, 0.7, 0.1, 1e-2])
        slopes = both(point)[1]
        for found, step in zip(slopes, 1e-5 * np.diag([1, 1, 1, 0.1]), strict=True):
            wanted = (both(point + step)[0] - both(point - step)[0]) / (2 * np.max(step))
            assert float(found) == pytest.approx(float(wanted), rel=1e-7)


@pytest.mark.long
def test_a_batch_over_numbers_of_an_optimizer_and_when_it_gets_somewhere():
    model, state = MODELS["anchored"], start(MODELS["anchored"], precision="float32")

    def when(eps):
        dynamics = descent("adam", False, eps=eps)
        found = uj.event_time(model, dynamics, state, "norm_H", 5.5, times=[0, 40])
        return found.time, uj.exact(model, dynamics, state, [20], "loss")["loss"][0]

    times, losses = jax.vmap(when)(jnp.array([1e-2, 3e-2]))
    slope = jax.grad(lambda eps: when(eps)[0])(1e-2)
    for place, eps in enumerate((1e-2, 3e-2)):
        dynamics = descent("adam", False, eps=eps)
        run = uj.simulate(model, dynamics, state, [20], "loss", precision="float64")
        assert float(losses[place]) == pytest.approx(float(run["loss"][0]), rel=1e-5)
        settings = {"times": [0, 40], "method": "simulate", "precision": "float64"}
        event = uj.event_time(model, dynamics, state, "norm_H", 5.5, **settings)
        assert 0 < float(times[place]) == pytest.approx(float(event.time), rel=1e-5)
    assert float(slope) == pytest.approx(float(times[1] - times[0]) / 2e-2, rel=0.1)


def test_spectral_descent_at_rates_far_apart():
    """Features that grow to 10^12 do not enlarge prototypes."""
    with jax.enable_x64(True):
        model = uj.unconstrained(uj.balanced(3, 2), 4)
        state = model.init(jax.random.key(0), spectral=1.0)
        for rate in (1.0, lambda k: jnp.where(k < 100, 1.0, 1.0)):
            optimizer = uj.Optimizer(uj.spectral_descent, learning_rate=1.0)
            descent = uj.Descent(rate, optimizer=optimizer, rate_H=1e12, rate_W=1.0)
            found, wanted = (solve(model, descent, state, [3], "norm_W") for solve in (uj.exact, uj.simulate))
            np.testing.assert_allclose(found["norm_W"], wanted["norm_W"], rtol=1e-12)
