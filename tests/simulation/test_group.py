"""Starts that a group permutes: the equations of the characters against SciPy, and the full flow against both."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import unhinged_jax as uj
from unhinged_jax import initial, losses
from unhinged_jax.simulation.group import group_of, group_system

TIGHT = uj.Flow(rtol=1e-11, atol=1e-13)
CASES = {  # group, C, N, p, decay
    "cyclic": ("cyclic", 5, 1, 6, 0.0),
    "cyclic, even": ("cyclic", 6, 2, 6, 0.01),
    "hadamard": ("hadamard", 8, 3, 9, 0.02),
}
LOSSES = {"cross_entropy": losses.CrossEntropy(), "focal": losses.Focal(1.5), "mse": losses.MSE()}


def problem(case, loss="cross_entropy", **more):
    group, C, N, p, decay = CASES[case]
    model = uj.regularized(uj.balanced(C, N), p, decay=decay, loss=loss, **more)
    return model, model.init(jax.random.key(3), group=group, precision="float64")


def characters(group, C):
    """chi_k(x) of the group, real part, as a table (k, x): one product or angle at a time."""
    table = np.empty((C, C))
    for k, x in itertools.product(range(C), range(C)):
        table[k, x] = np.cos(2 * np.pi * k * x / C) if group == "cyclic" else (-1) ** bin(k & x).count("1")
    return table


def oracle(case, a, times):
    """â_k(t) of prototypes whose products are the function sum_k a_k^2 chi_k(x)/C, by SciPy, for cross-entropy."""
    group, C, N, _, decay = CASES[case]
    chi = characters(group, C)

    def velocity(_, a):
        phi = chi.T @ (a**2) / C / N**0.5
        p = np.exp(phi - phi.max())
        return (1 - chi @ (p / p.sum())) * a / (C * N**0.5) - decay * a

    found = scipy.integrate.solve_ivp(velocity, (0, times[-1]), a, "DOP853", times, rtol=1e-12, atol=1e-14)
    return found.y.T


def spectrum_of(group, W):
    """The squared singular values of the characters in W W^T."""
    gram = W @ W.T
    return characters(group, len(gram)) @ gram[0]


LONG = pytest.mark.long


@pytest.mark.parametrize("case", ["hadamard", *(pytest.param(name, marks=LONG) for name in ("cyclic", "cyclic, even"))])
def test_characters_are_those_of_scipy(case):
    group, C, N, _, _ = CASES[case]
    model, state = problem(case)
    times = np.array([0.0, 2.0, 20.0, 80.0])
    run = uj.simulate(model, TIGHT, state, times, ["loss", "norm_H", "accuracy"], states=True)
    assert f"{group} group" in str(run.form)
    a = np.sqrt(np.maximum(spectrum_of(group, np.asarray(state.W)), 0.0))
    a[0] = 0.0
    want = oracle(case, a, times)
    for W, H, values in zip(np.asarray(run.states.W), np.asarray(run.states.H), want, strict=True):
        np.testing.assert_allclose(spectrum_of(group, W), values**2, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(H, np.repeat(W, N, axis=0) / N**0.5, rtol=1e-9, atol=1e-11)
    phi = characters(group, C).T @ want[-1] ** 2 / C / N**0.5
    np.testing.assert_allclose(run["loss"][-1], np.log(np.sum(np.exp(phi))) - phi[0], rtol=1e-8)
    np.testing.assert_allclose(run["norm_H"][-1], np.linalg.norm(want[-1]), rtol=1e-9)
    # The group permutes every moment as it permutes the start.
    index = np.arange(C)
    for element in range(C):
        moved = (index + element) % C if group == "cyclic" else index ^ element
        gram = np.asarray(run.states.W[-1]) @ np.asarray(run.states.W[-1]).T
        np.testing.assert_allclose(gram[np.ix_(moved, moved)], gram, rtol=1e-12, atol=1e-13)


def both(model, dynamics, state, times, **how):
    """The reduced run and the plain one."""
    seen = ["loss", "objective", "norm_H", "norm_W", "norm_b", "accuracy", "margin_min", "nc0", "nc4"]
    runs = [uj.simulate(model, dynamics, state, times, seen, states=True, reduce=r, **how) for r in (True, False)]
    assert "group" in str(runs[0].form) and "group" not in str(runs[1].form)
    return runs


def equal(runs, bound):
    for name in runs[0].observables:
        np.testing.assert_allclose(runs[0][name], runs[1][name], rtol=bound, atol=bound, err_msg=name)
    for part in "HWb":
        np.testing.assert_allclose(*(getattr(run.states, part) for run in runs), rtol=bound, atol=bound)


@pytest.mark.parametrize("loss", ["mse", *(pytest.param(name, marks=LONG) for name in ("cross_entropy", "focal"))])
def test_flow_is_the_full_one_whatever_the_rates_decays_and_sizes(loss):
    """Squared error is the one whose bias moves and matters; the others do not see a bias common to all classes."""
    model, _ = problem("cyclic, even", LOSSES[loss], bias=True)
    model = model.replace(decay=(0.01, 0.03))
    # Not balanced: H is of its own size, and some of its characters point against those of W.
    state, other = (
        model.init(jax.random.key(3), group="cyclic", spectrum=spectrum, precision="float64")
        for spectrum in ([0.3, 1, 0.5, 0.8, 0.5, 1], [0.5, 1, 0.02, 1.5, 0.02, 1])
    )
    state = state.replace(H=0.3 * np.asarray(other.H) - 0.1 * np.asarray(state.H), b=np.full(6, 0.2))
    equal(both(model, uj.Flow(0.7, 1.0, 1.5, rate_b=0.4, rtol=1e-10), state, [0.0, 1.0, 30.0]), 1e-8)


@LONG
def test_flow_of_planes_that_are_no_lines():
    """Features turned away from the prototypes, one angle per character."""
    model, state = problem("hadamard")
    model = model.replace(dim=18)
    W = np.pad(np.asarray(state.W), ((0, 0), (0, 9)))
    turned = np.pad(np.asarray(state.H), ((0, 0), (9, 0)))
    H = 0.6 * np.pad(np.asarray(state.H), ((0, 0), (0, 9))) + 0.8 * turned
    equal(both(model, uj.Flow(rtol=1e-10), uj.State(H, W), [0.0, 3.0, 30.0]), 1e-8)


@LONG
@pytest.mark.parametrize(("group", "C", "N"), [("cyclic", 5, 2), ("hadamard", 4, 3)])
def test_random_planes_rates_and_decays(group, C, N):
    """25 problems of each group: every character in a plane of its own, at its own angle and sizes."""
    rng, chi = np.random.default_rng(8), characters(group, C)
    k = np.arange(C)
    Q = np.cos(2 * np.pi * np.outer(k, k) / C) + np.sin(2 * np.pi * np.outer(k, k) / C) if group == "cyclic" else chi
    labels, pair = uj.balanced(C, N), np.minimum(k, -k % C) if group == "cyclic" else k
    for _ in range(25):
        frame = np.linalg.qr(rng.normal(size=(2 * C, 2 * C)))[0].reshape(2, C, 2 * C)
        sizes, angle = rng.exponential(size=(2, C))[:, pair], rng.uniform(0, np.pi, C)[pair][:, None]
        W = Q @ (sizes[0][:, None] * frame[0]) / C**0.5
        H = Q @ (sizes[1][:, None] * (np.cos(angle) * frame[0] + np.sin(angle) * frame[1])) / C**0.5
        r1, r2, l1, l2, bias, rate = rng.uniform(0.02, 1.0, 6)
        model = uj.regularized(labels, 2 * C, decay=(l1 / 10, l2 / 10), loss="cross_entropy", bias=True)
        flow = uj.Flow(rate, r1, r2, rtol=1e-10)
        state = uj.State(np.repeat(H, N, axis=0), W, np.full(C, bias))
        equal(both(model, flow, state, [0.5, 5.0, 20.0]), 1e-8)


@pytest.mark.parametrize("momentum", [None, pytest.param(0.6, marks=LONG)])
def test_descent_is_the_full_one_and_goes_on(momentum):
    model, state = problem("hadamard", bias=True)
    descent = uj.Descent(0.5, rate_W=1.3, momentum=momentum)
    runs = both(model, descent, state, [0, 3, 40])
    equal(runs, 1e-12)
    first = uj.simulate(model, descent, state, [3])
    rest = uj.simulate(model, descent, first, [40], ["loss"], states=True)
    assert ("group" in str(rest.form)) == (momentum is None)
    for part in "HWb":
        np.testing.assert_allclose(getattr(rest.final, part), getattr(runs[0].final, part), rtol=1e-12, atol=1e-13)


@LONG
def test_derivatives_batches_and_pieces():
    with jax.enable_x64(True):
        model, state = problem("cyclic, even")
        times = [1.0, 9.0]

        def loss(decay, scale, reduce=True):
            run = uj.simulate(model.replace(decay=decay), TIGHT, state, times, ["loss"], reduce=reduce)
            return scale * run["loss"][-1]

        slope = jax.grad(loss)(0.02, 1.0)
        step = 1e-4
        want = (loss(0.02 + step, 1.0) - loss(0.02 - step, 1.0)) / (2 * step)
        np.testing.assert_allclose(slope, want, rtol=1e-6)

        def drawn(size):
            return model.init(jax.random.key(3), group="cyclic", scale=size, precision="float64")

        sizes = jnp.array([0.5, 1.0])
        batch = jax.vmap(lambda size: uj.simulate(model, TIGHT, drawn(size), times, ["loss"]))(sizes)
        assert "cyclic group" in str(batch.form)
        whole = uj.simulate(model, TIGHT, state, times, ["loss"])
        np.testing.assert_allclose(batch["loss"][1], whole["loss"], rtol=1e-10)
        cut = uj.simulate(model, TIGHT, uj.simulate(model, TIGHT, state, times[:1]), times[1:], ["loss"])
        assert "cyclic group" in str(cut.form)
        np.testing.assert_allclose(cut["loss"], whole["loss"][1:], rtol=1e-10)
        # With respect to the start no reduction is taken: a change of it need not keep the symmetry.
        tangent = jax.grad(lambda x: uj.simulate(model, TIGHT, state.replace(W=x), times, ["loss"])["loss"][-1])
        assert np.isfinite(tangent(jnp.asarray(state.W))).all()


@LONG
@pytest.mark.parametrize("size", [1e-200, 1e3])
def test_sizes(size):
    """Small starts grow by e^(t (1/C)/N^(1/2)); the flow of a large one is the full one."""
    model, state = problem("hadamard")
    state = state.replace(H=size * np.asarray(state.H), W=size * np.asarray(state.W))
    run = uj.simulate(model, uj.Flow(rtol=1e-10), state, [0.0, 2.0], ["log_norm", "loss"])
    assert "group" in str(run.form)
    if size < 1:
        np.testing.assert_allclose(np.diff(run["log_norm"]), 2 * (1 / 8 / 3**0.5 - 0.02), rtol=1e-8)
        np.testing.assert_allclose(run["loss"], np.log(8), rtol=1e-14)
    else:
        equal(both(model, uj.Flow(rtol=1e-10), state, [0.0, 2.0]), 1e-7)


@LONG
def test_float32():
    model, state = problem("hadamard")
    narrow = uj.simulate(model, uj.Flow(), state, [5.0, 40.0], ["loss"], precision="float32")
    assert "group" in str(narrow.form) and narrow["loss"].dtype == np.float32
    wide = uj.simulate(model, uj.Flow(), state, [5.0, 40.0], ["loss"])
    np.testing.assert_allclose(narrow["loss"], wide["loss"], rtol=1e-4)


def test_which_starts_a_group_permutes():
    labels = uj.balanced(4, 2)
    model = uj.unconstrained(labels, 5, loss="cross_entropy")
    state = model.init(jax.random.key(0), group="hadamard", precision="float64")
    assert group_of(model, state) == "hadamard"
    etf = np.asarray(initial.simplex_etf(4, 5), float)
    assert group_of(model, uj.State(np.repeat(etf, 2, axis=0), 2 * etf)) == "cyclic"  # every group permutes it
    assert group_of(model, uj.State(np.zeros((8, 5)), etf)) == "cyclic"
    cyclic = model.init(jax.random.key(0), group="cyclic", spectrum=[0, 1, 3, 1], precision="float64")
    assert group_of(model, cyclic) == "cyclic"
    H, W = np.asarray(state.H), np.asarray(state.W)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    others = {
        "a random start": model.init(jax.random.key(0)),
        "unequal features of a class": state.replace(H=H * (1 + 1e-9 * np.arange(8)[:, None])),
        "rows of one length": state.replace(W=W * np.array([1, 1, 1, -1])[:, None]),
        "features turned alone": state.replace(H=H @ turn),
        "unequal biases": state.replace(b=np.arange(4.0)),
    }
    assert not [name for name, start in others.items() if group_of(model, start)]
    hinge, own = model.replace(loss="hinge"), model.replace(loss=lambda logits, targets: -jnp.sum(logits * targets, 1))
    weighted = model.replace(labels=labels.weighted(classes=[0.4, 0.2, 0.2, 0.2]))
    noisy = model.replace(labels=labels.asymmetric_noise(0.1))
    derived = model.replace(loss=Weighted())
    assert not [m for m in (hinge, own, weighted, noisy, derived) if group_of(m, state)]
    for allowed in (
        model.replace(labels=labels.smoothed(0.1)),
        model.replace(loss=Quartic(0.5)),
        model.replace(loss="mse"),
    ):
        assert group_of(allowed, state) == "hadamard"
    with pytest.raises(TypeError, match="`symmetric` of Typed must not be a field"):
        Typed()
    five = uj.unconstrained(uj.balanced(5, 1), 5, loss="cross_entropy")
    start, order = five.init(jax.random.key(0), group="cyclic", precision="float64"), [0, 2, 1, 3, 4]
    assert group_of(five, start) == "cyclic"
    assert not group_of(five, start.replace(H=np.asarray(start.H)[order], W=np.asarray(start.W)[order]))
    # A member of a batch is looked at in its own size.
    small, found = 1e-16 * H[[0, 3, 2, 1, 4, 5, 6, 7]], []
    with jax.enable_x64(True):
        jax.vmap(lambda H: found.append(group_of(model, state.replace(H=H))) or H)(jnp.stack([H, small]))
    assert found == [""]
    shuffled = model.replace(labels=uj.from_labels(np.array([2, 0, 1, 3, 3, 1, 0, 2])))
    assert group_of(shuffled, shuffled.init(jax.random.key(0), group="hadamard", precision="float64")) == "hadamard"


def test_what_float32_resolves_counts():
    model = uj.unconstrained(uj.balanced(4, 2), 5, loss="cross_entropy")
    sizes = [0.0, 1.0, 2e-6, 1.0]
    state = model.init(jax.random.key(0), group="hadamard", spectrum=sizes)
    assert group_of(model, state) == "hadamard"
    found = np.linalg.norm(group_system(model, state, "hadamard", False).body()["W"], axis=0)
    np.testing.assert_allclose(found, sizes, rtol=0.03, atol=1e-12)
    longer = np.asarray(state.W) * np.array([[1 + 3e-6], [1], [1], [1]], np.float32)
    assert not group_of(model, state.replace(W=longer))


class Weighted(losses.CrossEntropy):
    """A loss derived from one that treats all classes alike, which does not."""

    def __call__(self, logits, targets):
        return super().__call__(logits, targets) * targets[..., 0]


class Quartic(losses.Loss):
    """A loss of a user's own that treats all classes alike."""

    strength: float
    symmetric = True

    def __call__(self, logits, targets):
        return self.strength * jnp.sum((logits - targets) ** 4, axis=-1)


class Typed(losses.Loss):
    symmetric: bool = True


def test_smoothed_labels_and_a_loss_of_ones_own_are_reduced():
    """60 steps of the plain loop in NumPy; the smoothed targets are kept in float32."""
    C, N, rate, amount = 4, 2, 0.4, 0.3
    labels = uj.balanced(C, N).smoothed(amount)
    model = uj.regularized(labels, 5, decay=0.01, loss=Quartic(0.5))
    state = model.init(jax.random.key(0), group="hadamard", scale=0.5, precision="float64")
    run = uj.simulate(model, uj.Descent(rate), state, [60], ["loss"])
    assert "group" in str(run.form)
    H, W = np.asarray(state.H), np.asarray(state.W)
    Y = (1 - amount) * np.eye(C)[np.asarray(labels.index)] + amount / C
    for _ in range(60):
        P = -4 * 0.5 * (H @ W.T - Y) ** 3 / len(H)
        H, W = H + rate * (P @ W - 0.01 * H), W + rate * (P.T @ H - 0.01 * W)
    np.testing.assert_allclose(run.final.H, H, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run.final.W, W, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run["loss"][-1], np.mean(0.5 * np.sum((H @ W.T - Y) ** 4, axis=1)), rtol=1e-6)


def test_draw():
    model = uj.unconstrained(uj.balanced(6, 4), 5)
    state = model.init(jax.random.key(1), group="cyclic", spectrum=[0, 1, 2, 3, 2, 1], scale=2.0, precision="float64")
    H, W = np.asarray(state.H), np.asarray(state.W)
    np.testing.assert_allclose(np.linalg.svd(W)[1], [6, 4, 4, 2, 2], rtol=1e-12)
    np.testing.assert_allclose(spectrum_of("cyclic", W), 4 * np.array([0, 1, 4, 9, 4, 1.0]), atol=1e-12)
    np.testing.assert_allclose(H.T @ H, W.T @ W, atol=1e-12)
    again = model.init(jax.random.key(1), group="cyclic", precision="float64")
    assert np.abs(np.sum(np.asarray(again.W), axis=0)).max() < 1e-12


@pytest.mark.parametrize(
    ("labels", "dim", "asked", "said"),
    [
        (uj.balanced(6, 1), 6, {"group": "hadamard"}, "power of two"),
        (uj.balanced(6, 1), 6, {"group": "dihedral"}, "one of 'cyclic', 'hadamard'"),
        (uj.balanced(6, 1), 4, {"group": "cyclic"}, "at least 5"),
        (uj.balanced(6, 1), 5, {"group": "cyclic", "spectrum": np.ones(6)}, "at least 6"),
        (uj.balanced(4, 1), 4, {"group": "cyclic", "spectrum": [0, 1, 2, 3]}, "must be equal"),
        (uj.balanced(4, 1), 4, {"group": "cyclic", "spectrum": [0, 1, 2]}, "one entry per class"),
        (uj.balanced(4, 1), 4, {"group": "cyclic", "spectrum": [0, -1, 2, -1]}, "at least 0"),
        (uj.balanced(4, 1), 4, {"spectrum": [0, 1, 2, 1]}, "belongs to a group"),
        (uj.balanced(4, 1), 4, {"group": "cyclic", "balanced": 0.0}, "leave `balanced` out"),
        (uj.balanced(4, 1), 4, {"group": "cyclic", "features": np.ones((4, 4))}, "leave `features` out"),
        (uj.from_counts([2, 1]), 4, {"group": "cyclic"}, "same number of samples"),
        (uj.targets(np.ones((4, 3))), 4, {"group": "cyclic"}, "numbers, not classes"),
    ],
)
def test_what_is_no_draw(labels, dim, asked, said):
    with pytest.raises(ValueError, match=said):
        uj.unconstrained(labels, dim).init(jax.random.key(0), **asked)


def test_small_states_in_float32_keep_their_logits():
    """Products of coordinates of 1e-20, whose logits are 0 beside a loss of log C."""
    model = uj.regularized(uj.balanced(4, 1), 4, decay=1.0, loss="cross_entropy")
    state = model.init(jax.random.key(1), group="hadamard", precision="float32")
    times = [0.0, 45.0, 60.0]
    small, dense = (
        uj.simulate(model, uj.Flow(), state, times, ["accuracy", "accuracy_margin"], reduce=reduce)
        for reduce in (True, False)
    )
    assert "group" in str(small.form)
    for name in ("accuracy", "accuracy_margin"):
        np.testing.assert_allclose(small[name], dense[name], rtol=1e-4)
    assert float(small["accuracy_margin"][-1]) > 0.1
