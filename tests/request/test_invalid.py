"""Bad input: one clear message each, raised before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.config.reading import config_of
from unhinged_jax.losses import Loss
from unhinged_jax.signal import DenseSignal

LABELS = uj.balanced(3, 2)
MODEL = uj.unconstrained(LABELS, dim=4)
STATE = uj.State(np.ones((6, 4), np.float32), np.ones((3, 4), np.float32), np.zeros(3, np.float32))


def broken(**changes):
    return STATE.replace(**changes)


def holding(value):
    H = np.ones((6, 4), np.float32)
    H[2, 1] = value
    return broken(H=H)


def run(model=MODEL, dynamics=None, state=STATE, times=(0, 1), **settings):
    return lambda: uj.simulate(model, dynamics or uj.Descent(0.1), state, list(times), **settings)


BAD = {
    "a count of 0": (lambda: uj.from_counts([3, 0]), "at least 1"),
    "a negative count": (lambda: uj.from_counts([3, -1]), "at least 1"),
    "half a sample": (lambda: uj.from_counts([3, 1.5]), "whole numbers"),
    "one class": (lambda: uj.balanced(1, 3), "at least 2"),
    "no samples": (lambda: uj.balanced(3, 0), "at least 1"),
    "a label too large": (lambda: uj.from_labels([0, 1, 3], classes=3), "0 ... 2"),
    "a negative label": (lambda: uj.from_labels([0, -1, 1]), "labels must lie"),
    "a class without samples": (lambda: uj.from_labels([0, 2]), "class 1 has none"),
    "labels that are not integers": (lambda: uj.from_labels([0.0, 1.0]), "integers"),
    "an imbalance ratio below 1": (lambda: uj.long_tailed(3, 10, 0.5), "ratio"),
    "targets that do not sum to 1": (lambda: uj.soft(np.full((2, 2), 0.4)), "sum to 1"),
    "a negative weight": (lambda: LABELS.weighted(samples=-np.ones(6)), "at least 0"),
    "a noise rate above 1": (lambda: LABELS.symmetric_noise(1.5), "noise rate"),
    "a negative gamma": (lambda: uj.unconstrained(LABELS, 4, gamma=-0.1), "gamma must be finite and at least 0"),
    "gamma NaN": (lambda: uj.unconstrained(LABELS, 4, gamma=float("nan")), "gamma must be finite"),
    "a negative decay": (lambda: uj.regularized(LABELS, 4, decay=-0.1), "decay_H"),
    "three decays": (lambda: uj.regularized(LABELS, 4, decay=(1, 2, 3)), "pair"),
    "gamma for another loss": (lambda: uj.unconstrained(LABELS, 4, gamma=1.0, loss="mse"), "no gamma"),
    "an unknown loss": (lambda: uj.unconstrained(LABELS, 4, loss="l2"), "loss must be one of"),
    "a dimension of 0": (lambda: uj.unconstrained(LABELS, 0), "dim"),
    "an unknown rescaling": (lambda: uj.spherical(LABELS, 4, rescale=3), "rescale"),
    "a kernel of a wrong shape": (lambda: uj.ntk_invariant(LABELS, 4, np.eye(5)), "kernel must have shape"),
    "an indefinite kernel": (lambda: uj.ntk_invariant(LABELS, 4, -np.eye(6)), "positive semi-definite"),
    "an asymmetric kernel": (lambda: uj.ntk_invariant(LABELS, 4, np.triu(np.ones((6, 6)))), "symmetric"),
    "an ETF in too few dimensions": (
        lambda: uj.unconstrained(LABELS, 1).init(jax.random.key(0), prototypes="etf"),
        "dim",
    ),
    "an unknown initial state": (lambda: MODEL.init(jax.random.key(0), features="ones"), "initial state"),
    "prototypes of a wrong shape": (run(state=broken(W=np.ones((2, 4)))), r"state.W must have shape \(3, 4\)"),
    "features of a wrong shape": (run(state=broken(H=np.ones((6, 3)))), r"state.H must have shape \(6, 4\)"),
    "biases of a wrong shape": (run(state=broken(b=np.ones(4))), "state.b must have shape"),
    "NaN in the state": (run(state=holding(np.nan)), "1 of its 24 entries are NaN or infinite"),
    "infinity in the state": (run(state=holding(np.inf)), "NaN or infinite"),
    "a spherical feature of length 0": (
        run(uj.spherical(LABELS, 4), state=broken(H=np.zeros((6, 4)))),
        "cannot be normalised",
    ),
    "unsorted times": (run(times=(0, 2, 1)), "strictly ascending, but 2 is followed by 1"),
    "repeated times": (run(times=(0, 1, 1)), "strictly ascending"),
    "negative times": (run(times=(-1, 1)), "before the start"),
    "no times": (run(times=()), "non-empty"),
    "a time that is NaN": (run(dynamics=uj.Flow(), times=(0.0, float("nan"))), "times must be finite"),
    "half an update": (run(times=(0, 1.5)), "whole numbers"),
    "float32 with tolerance 1e-12": (run(dynamics=uj.Flow(rtol=1e-12)), "below what float32 can resolve"),
    "a tolerance of 0": (lambda: uj.Flow(rtol=0.0), "rtol"),
    "a negative rate": (lambda: uj.Flow(rate_H=-1.0), "rate_H must be finite and above 0"),
    "a rate of 0": (lambda: uj.Descent(rate_W=0.0), "`anchored` or `frozen`"),
    "a momentum of 1": (lambda: uj.Descent(momentum=1.0), "momentum must lie in"),
    "Nesterov without momentum": (lambda: uj.Descent(nesterov=True), "nesterov needs a momentum"),
    "momentum and an optimizer": (lambda: uj.Descent(momentum=0.9, optimizer=optax.adam(1.0)), "not both"),
    "an unknown observable": (run(observe="lossy"), "unknown observable 'lossy'"),
    "an observable without meaning": (run(uj.unconstrained(LABELS, 4, loss="mse"), observe="distance"), "no meaning"),
    "an unknown precision": (run(precision="float16"), "precision must be one of"),
    "an unknown target": (run(target="bottom"), "target must be one of"),
    "a model that is none": (run(model="unconstrained"), "model must be a LayerPeeled"),
    "a dynamics that is none": (run(dynamics=0.1), "dynamics must be a Flow, a Descent or a Diffusion"),
    "a state that is none": (run(state=np.ones(3)), "state must be a State"),
    "times before the end of the first run": (
        lambda: run(state=run(times=(0, 5), observe="norm")(), times=(3,), observe="norm")(),
        "before the start",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_gives_one_clear_message(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as raised:
        call()
    text = str(raised.value)
    assert len(text) < 800 and "\n" not in text


NO_CLOSED_FORM = {
    "rates that are not proportional": (MODEL, uj.Flow(rate_H=uj.exponential(1.0, 0.1)), "not proportional"),
    "a loss that is not linear": (uj.unconstrained(LABELS, 4, loss="focal"), uj.Flow(), "not linear in the logits"),
    "squared error from any start": (uj.unconstrained(LABELS, 4, loss="mse"), uj.Flow(), "from balanced starts only"),
    "an optimizer": (MODEL, uj.Descent(optimizer=optax.adam(0.1)), "where its gradient is constant: with"),
    "free spherical": (uj.spherical(LABELS, 4, free_prototypes=True), uj.Flow(), "anchor the prototypes"),
    "spherical with momentum": (uj.spherical(LABELS, 4), uj.Descent(0.1, momentum=0.5), "momentum on spherical"),
}


@pytest.mark.parametrize("name", list(NO_CLOSED_FORM))
def test_what_has_no_closed_form_is_named(name):
    model, dynamics, message = NO_CLOSED_FORM[name]
    with pytest.raises(uj.NoClosedForm, match=message):
        uj.exact(model, dynamics, STATE, [0, 1])


def test_traced_numbers_of_updates_are_refused_in_words():
    with pytest.raises(ValueError, match="must be known when it is compiled"):
        jax.jit(lambda times: uj.simulate(MODEL, uj.Descent(0.1), STATE, times, "norm")["norm"])(np.array([0, 1]))


def test_the_dense_update_keeps_no_limit_apart():
    model = uj.unconstrained(uj.balanced(3, 2), 4)
    state = model.init(jax.random.key(0))
    seen = uj.simulate(model, uj.Descent(0.1), state, [0, 2], reduce=False)  # a set leaves out what has no meaning
    assert "norm" in seen.observables and "distance" not in seen.observables
    with pytest.raises(ValueError, match="reduce=True"):
        uj.simulate(model, uj.Descent(0.1), state, [0, 2], "distance", reduce=False)


@pytest.mark.parametrize("run", [uj.exact, pytest.param(uj.simulate, marks=pytest.mark.long)])
@pytest.mark.parametrize("derivative", [jax.grad, pytest.param(jax.jacfwd, marks=pytest.mark.long)])
def test_derivatives_of_float64_runs_ask_for_float64_around_them(run, derivative):
    def last(decay):
        return run(MODEL.replace(decay=decay), uj.Descent(0.1), STATE, [10], "norm", precision="float64").last("norm")

    with pytest.raises(ValueError, match=r"jax.enable_x64\(True\)"):
        derivative(last)(0.1)
    with jax.enable_x64(True):
        assert np.isfinite(derivative(last)(0.1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pull(Loss):
    """Minus the logit of the class, with a signal that is `factor` times too large."""

    factor: float = 1.0
    linear = True

    def __call__(self, logits, targets):
        return -jnp.sum(targets * logits, axis=-1)

    def signal(self, labels):
        return DenseSignal(self.factor * jnp.asarray(labels.weights)[:, None] * labels.probabilities())


@pytest.mark.parametrize("run", [uj.exact, uj.simulate])
def test_a_wrong_signal_is_refused_and_does_not_agree_with_itself(run):
    with pytest.raises(ValueError, match=r"Pull.signal is not minus the gradient .* differ by up to 0.17"):
        run(uj.unconstrained(LABELS, dim=4, loss=Pull(2.0)), uj.Descent(0.1), STATE, [10], "norm")
    with pytest.raises(ValueError, match="Pull"):
        model = uj.unconstrained(LABELS, dim=4, loss=Pull(2.0))
        jax.jit(lambda state: run(model, uj.Descent(0.1), state, [10], "norm")["norm"])(STATE)
    found = run(uj.unconstrained(LABELS, dim=4, loss=Pull()), uj.Descent(0.1), STATE, [10], "norm")
    assert np.isfinite(found["norm"][0])


def test_messages_name_what_may_have_been_meant():
    with pytest.raises(ValueError, match=r"unknown observable 'log_nrom'; did you mean 'log_norm'\?"):
        uj.simulate(MODEL, uj.Flow(), STATE, [1.0], "log_nrom")
    with pytest.raises(ValueError, match=r"key must be a JAX key, such as jax.random.key\(0\), but got 0"):
        MODEL.init(0)
    with pytest.raises(ValueError, match=r"no field 'decai'; did you mean 'decay'\?"):
        MODEL.replace(decai=0.1)
    with pytest.raises(ValueError, match=r"unknown parameter 'eta': the schedule is not constant.*'schedule.peak'"):
        uj.sensitivity(MODEL, uj.Flow(uj.cosine(0.5, horizon=9)), STATE, [1.0], "loss", ["eta"])
    with pytest.raises(ValueError, match=r"unknown parameter 'schedule.peak': .* its rate is 'eta'"):
        uj.sensitivity(MODEL, uj.Flow(), STATE, [1.0], "loss", ["schedule.peak"])


@pytest.mark.parametrize(("given", "advice"), [("0.1", " Write it without quotes: 0.1."), ("much", "")])
def test_a_number_in_quotes_is_named_as_such(given, advice):
    tables = {"model": {"case": "regularized", "dim": 4, "decay": given}}
    with pytest.raises(ValueError) as error:
        config_of(tables, "run.toml")
    message = str(error.value)
    assert "[model] decay must be a number or an array" in message and message.endswith(f"but is {given!r}.{advice}")


def test_a_model_is_shown_in_a_line():
    shown = repr(uj.regularized(LABELS, dim=4, decay=0.1, gamma=0.5))
    assert shown == "LayerPeeled(n=6, C=3, p=4, Unhinged(gamma=0.5), decay=0.1)"
    assert "prototypes anchored" in repr(uj.anchored(LABELS, dim=4))
    assert "spherical" in repr(uj.spherical(LABELS, dim=4))
