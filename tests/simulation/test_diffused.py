"""Diffusions: their noise is that of every batch and label, and one key is one path, however finely it is divided."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.simulation.diffused import DiffusedSystem

LABELS = uj.balanced(classes=3, per_class=4)
KEY = jax.random.key(11)
KINDS = {
    "batch": {"batch": 2},
    "without replacement": {"batch": 2, "replacement": False},
    "fresh labels": {"fresh_labels": True},
    "both": {"batch": 2, "fresh_labels": True},
}


def gradients(model, drawn, H, W, b):
    """Minus the gradient of every batch and every set of labels, with its probability, in NumPy."""
    n, C, m = model.samples, model.classes, drawn.get("batch")
    q, targets = np.asarray(model.labels.weights, float), np.asarray(model.labels.probabilities(), float)
    weights = [np.ones(n)]
    if m is not None:
        chosen = itertools.product(range(n), repeat=m)
        if not drawn.get("replacement", True):
            chosen = itertools.permutations(range(n), m)
        weights = [np.bincount(one, minlength=n) * n / m for one in chosen]
    labels = [(1.0, targets)]
    if drawn.get("fresh_labels"):
        labels = [
            (np.prod([targets[i, c] for i, c in enumerate(one)]), np.eye(C)[list(one)])
            for one in itertools.product(range(C), repeat=n)
        ]
    S = H @ W.T + b
    odds = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)
    for D, (chance, Y) in itertools.product(weights, labels):
        pull = (1 + 1 / (C - 1)) * Y - 1 / (C - 1) if model.linear else Y - odds
        pull = (D * q)[:, None] * pull
        yield chance / len(weights), np.concatenate([(pull @ W).ravel(), (pull.T @ H).ravel(), pull.sum(axis=0)])


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("unhinged", "both"),
        ("cross_entropy", "both"),
        ("cross_entropy", "without replacement"),
        *(pytest.param("unhinged", kind, marks=pytest.mark.long) for kind in KINDS if kind != "both"),
        *(pytest.param("cross_entropy", kind, marks=pytest.mark.long) for kind in ("batch", "fresh labels")),
    ],
)
def test_noise_has_the_covariance_of_every_draw(loss, kind, monkeypatch):
    with jax.enable_x64(True):
        labels = uj.from_counts([1, 2]).weighted(samples=np.array([0.5, 0.2, 0.3]))
        labels = labels.asymmetric_noise(0.3) if "fresh_labels" in KINDS[kind] else labels
        model = uj.unconstrained(labels, dim=2, loss=loss, bias=True)
        rng = np.random.default_rng(0)
        H, W, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 2)), rng.normal(size=2)
        every = list(gradients(model, KINDS[kind], H, W, b))
        mean = sum(chance * one for chance, one in every)
        covariance = sum(chance * np.outer(one - mean, one - mean) for chance, one in every)

        def velocity(normals):
            """With these numbers, (3, 1) and then (3, 2), in place of drawn ones."""
            given = {(3, 1): normals[:3, None], (3, 2): normals[3:].reshape(3, 2)}
            monkeypatch.setattr(DiffusedSystem, "_normal", lambda self, key, shape, dtype: given[shape])
            diffusion, words = uj.Diffusion(1.0, step=1, **KINDS[kind]), jax.random.key_data(jax.random.split(KEY))
            system = DiffusedSystem(model, H, W, b, words, "threefry2x32", diffusion, jnp.asarray(0))
            moved = system.velocity({"H": jnp.asarray(H), "W": jnp.asarray(W), "b": jnp.asarray(b)})
            return jnp.concatenate([moved["H"].ravel(), moved["W"].ravel(), moved["b"]])

        B = jax.jacfwd(velocity)(jnp.zeros(9))
        size = np.max(np.abs(covariance))
        np.testing.assert_allclose(velocity(jnp.zeros(9)), mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(B @ B.T, covariance, rtol=1e-12, atol=1e-13 * size)


@pytest.mark.parametrize("kind", ["both", pytest.param("without replacement", marks=pytest.mark.long)])
def test_one_key_is_one_path(kind):
    labels = LABELS.symmetric_noise(0.2) if "fresh_labels" in KINDS[kind] else LABELS
    model = uj.regularized(labels, dim=5, decay=0.1, loss="cross_entropy")
    state, diffusion = model.init(jax.random.key(0)), uj.Diffusion(0.5, step=0.2, halvings=1, **KINDS[kind])

    def run(times, begin=state, key=KEY, **settings):
        return uj.simulate(model, diffusion, begin, times, ["norm"], key=key, **settings)

    whole = run([2.0, 6.6])
    assert int(whole.steps) == 33 and float(whole.elapsed) == 6.6 and whole.clock == "time"
    first = run([2.0])
    for end in (run([0.2, 1.4, 2.0, 4.0, 6.6]).final, run([6.6], first).final):
        np.testing.assert_array_equal(end.H, whole.final.H)
    keys = jnp.stack([jax.random.key(1), KEY, jax.random.key(2)])
    mapped = jax.vmap(lambda key: run([2.0, 6.6], key=key))(keys)
    np.testing.assert_allclose(mapped.final.H[1], whole.final.H, rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(mapped.final.H[0] - whole.final.H)) > 1e-3
    if kind != "both":  # it takes seconds
        wide = run([2.0, 6.6], precision="float64")["norm"]
        np.testing.assert_allclose(whole["norm"], wide, rtol=1e-5)


def test_half_the_step_divides_the_same_path():
    # Noise that does not depend on the state is summed without error, whatever the step.
    with jax.enable_x64(True):
        model = uj.frozen(LABELS, dim=4)
        state, coarse = model.init(jax.random.key(0)), uj.Diffusion(0.5, batch=3, step=2.0)
        finer = coarse.finer()
        assert (finer.step, finer.halvings) == (1.0, 1)
        ends = [
            uj.simulate(model, one, state, [0, 4, 6], [], states=True, key=KEY).states.W
            for one in (coarse, finer, finer.finer().finer())
        ]
        for end in ends[1:]:
            np.testing.assert_allclose(end, ends[0], rtol=1e-12)
        alone = uj.simulate(model, uj.Diffusion(0.5, batch=3, step=1.0), state, [6], [], key=KEY).final.W
        assert np.max(np.abs(alone - ends[0][-1])) > 1e-2


def test_increments_of_a_divided_path_are_independent():
    system = DiffusedSystem(
        *[None] * 4, jax.random.key_data(jax.random.split(KEY)), "threefry2x32",
        uj.Diffusion(1.0, batch=1, step=0.25, halvings=3), jnp.asarray(0),
    )  # fmt: skip
    steps = jax.vmap(lambda k: system.at_update(k)._normal(KEY, (4000,), "float32"))(jnp.arange(16)) / 2  # over sqrt(4)
    np.testing.assert_allclose(np.cov(np.asarray(steps)), np.eye(16), atol=5 / np.sqrt(4000))


@pytest.mark.long
def test_a_path_can_be_differentiated_by_the_size_of_the_batch():
    model = uj.regularized(LABELS, dim=3, decay=0.1, loss="cross_entropy")

    def value(batch):
        diffusion = uj.Diffusion(0.3, batch=batch, step=0.5)
        return uj.simulate(model, diffusion, state, [5], ["objective"], key=KEY)["objective"][0]

    with jax.enable_x64(True):
        state = model.init(jax.random.key(0))
        slope, h = float(jax.grad(value)(2.5)), 1e-6
        np.testing.assert_allclose(slope, float(value(2.5 + h) - value(2.5 - h)) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("kind", [uj.Descent, uj.Diffusion])
def test_noisy_dynamics_are_trees_that_can_be_taken_apart(kind):
    noisy = kind(jnp.asarray(0.1), batch=jnp.asarray(3.0))
    assert eqx.combine(*eqx.partition(noisy, eqx.is_array)) == noisy
    assert jax.tree.map(lambda one, other: (one, other), noisy, noisy).batch[0] == 3
    assert float(eqx.filter_grad(lambda one: one.batch * 2.0)(noisy).batch) == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": "3"}, "batch must be a number of samples"),
        ({"batch": 0}, "batch must be"),
        ({"batch": 3, "replacement": "epochs"}, "batches of one epoch"),
        ({"batch": 3, "step": 0.0}, "step must be finite and above 0"),
        ({"batch": 3, "step": [0.1, 0.2]}, "step must be a real number"),
        ({"batch": 3, "halvings": -1}, "halvings must be a whole number"),
        ({"batch": 3, "rate_H": 0.0}, "rate_H must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        uj.Diffusion(0.1, **settings)


def test_what_cannot_be_simulated_is_refused():
    model = uj.regularized(LABELS, dim=5, decay=0.1)
    state, diffusion = model.init(jax.random.key(0)), uj.Diffusion(0.1, batch=3)
    for times, settings, message in (
        ([5], {}, "a Diffusion draws noise: give a key"),
        ([0.25], {"key": KEY}, "multiples of its step, 0.1, but 0.25 is not"),
        ([5], {"key": KEY, "adjoint": 3}, "adjoint must be"),
    ):
        with pytest.raises(ValueError, match=message):
            uj.simulate(model, diffusion, state, times, [], **settings)
    for dynamics, message in (
        (uj.Diffusion(0.1), "needs noise"),
        (uj.Diffusion(0.1, batch=True), "batch must be a real number"),
        (uj.Descent(0.1, batch=True), "batch must be a real number"),
    ):
        for call in (
            lambda dynamics=dynamics: uj.simulate(model, dynamics, state, [5], [], key=KEY),
            lambda dynamics=dynamics: uj.exact(model, dynamics, state, [5]),
        ):
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match="13 cannot be drawn from 12"):
        uj.simulate(model, uj.Diffusion(0.1, batch=13, replacement=False), state, [5], [], key=KEY)
    with pytest.raises(ValueError, match="one-hot"):
        uj.simulate(model, uj.Diffusion(0.1, fresh_labels=True), state, [5], [], key=KEY)
    with pytest.raises(ValueError, match="must be known when it is compiled"):
        jax.jit(lambda t: uj.simulate(model, diffusion, state, [t], [], key=KEY).final.W)(1.0)
    with pytest.raises(ValueError, match="step of a Diffusion must be known"):
        jax.jit(lambda h: uj.simulate(model, uj.Diffusion(0.1, batch=3, step=h), state, [1], [], key=KEY).final.W)(0.1)
    for call in (
        lambda: uj.limit(model, diffusion, state),
        lambda: uj.event_time(model, diffusion, state, "norm", 5.0, times=[0, 9], method="simulate"),
        lambda: uj.lyapunov(model, diffusion, state, 10, 2),
        lambda: uj.push_forward(model, diffusion, state, [1], state),
    ):
        with pytest.raises(ValueError, match="Diffusion"):
            call()


def test_a_file_draws_as_python_does(tmp_path):
    tables = {
        "model": {"case": "regularized", "dim": 4, "decay": 0.1},
        "labels": {"layout": "balanced", "classes": 3, "per_class": 4},
        "dynamics": {"kind": "diffusion", "schedule": 0.3, "batch": 2.5, "step": 0.5, "halvings": 1, "seed": 7},
        "run": {"until": 9, "points": 3, "observe": ["square_norm"]},
        "sweep": {"seeds": 2, "seeded": ["dynamics.seed"]},
    }
    data = uj.sweep(uj.SweepPlan.of(tables), tmp_path / "draws.zarr", workers=0, progress=False).load()
    model = uj.regularized(LABELS, dim=4, decay=0.1)
    state, diffusion = model.init(jax.random.key(0)), uj.Diffusion(0.3, batch=2.5, step=0.5, halvings=1)
    for seed in (0, 1):
        run = uj.simulate(model, diffusion, state, [0, 4.5, 9], ["square_norm"], key=jax.random.key(seed))
        np.testing.assert_allclose(data["square_norm"].sel(seed=seed), run["square_norm"], rtol=1e-5)
    for key, value, message in (
        ("momentum", 0.9, "momentum belongs to kind = 'descent', but kind is 'diffusion'"),
        ("rtol", 1e-6, "rtol belongs to kind = 'flow'"),
    ):
        with pytest.raises(ValueError, match=message):
            uj.SweepPlan.of({**tables, "dynamics": {**tables["dynamics"], key: value}})
    with pytest.raises(ValueError, match="batch belongs to kind = 'descent' or 'diffusion', but kind is 'flow'"):
        uj.SweepPlan.of({**tables, "dynamics": {"kind": "flow", "batch": 3}})
    with pytest.raises(ValueError, match=r"until must be a multiple of the step, 0\.5"):
        uj.SweepPlan.of({**tables, "run": {"until": 9.2, "points": 3}})
