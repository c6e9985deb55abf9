"""What comes in at the doors of the package: objects of a wrong type, equality, losses and names of one's own."""

import dataclasses
import pickle

import chex
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax import losses
from unhinged_jax.config.problem import build
from unhinged_jax.config.reading import config_of
from unhinged_jax.kernel import Kernel
from unhinged_jax.losses import Loss
from unhinged_jax.schedules import Schedule

LABELS = uj.balanced(2, 1)
MODEL = uj.regularized(LABELS, 2, decay=0.1)
KEY = jax.random.key(0)
STATE = MODEL.init(KEY)
FLOW = uj.Flow()
RUN = uj.exact(MODEL, FLOW, STATE, [0.0, 1.0], "norm", states=True)

ODD = {
    "None": None, "a number": 3.0, "a text": "norm", "a list": [[1], [1, 2]], "a dictionary": {"a": 1}, "a set": {1},
    "a function": lambda *_: 0, "a class": uj.Flow, "an array": np.ones((2, 2)), "texts": np.array(["a"]),
    "an object": object(), "a key": KEY, "a model": MODEL, "labels": LABELS, "a state": STATE, "a dynamics": FLOW,
    "a trajectory": RUN,
}  # fmt: skip
OF = {
    "model": ("a model", "model must be a LayerPeeled"),
    "dynamics": ("a dynamics", "dynamics must be a Flow, a Descent or a Diffusion"),
    "state": ("a state", "state must be a State"),
    "labels": ("labels", "labels must be Labels"),
    "key": ("a key", "key must be a JAX key"),
    "run": ("a trajectory", "run must be a Trajectory"),
    "truth": ("a trajectory", "truth must be a Trajectory"),
    "tangent": ("a state", "tangent must be a State"),
    "states": ("a state", "states? must be a State"),
}
"""Argument -> what belongs there, and how the refusal of everything else begins."""

PROBLEM = {"model": MODEL, "dynamics": FLOW, "state": STATE}
RUNS = {**PROBLEM, "times": [0.0, 1.0]}
CALLS = {
    "simulate": (uj.simulate, RUNS, ("model", "dynamics", "state")),
    "exact": (uj.exact, RUNS, ("model", "dynamics", "state")),
    "limit": (uj.limit, PROBLEM, ("model", "dynamics", "state")),
    "event_time": (uj.event_time, {**RUNS, "event": "norm", "level": 1.0}, ("model", "dynamics", "state")),
    "sensitivity": (uj.sensitivity, {**RUNS, "observe": "norm"}, ("model", "dynamics", "state")),
    "limit_sensitivity": (uj.limit_sensitivity, PROBLEM, ("model", "dynamics", "state")),
    "push_forward": (uj.push_forward, {**RUNS, "tangent": STATE}, ("model", "dynamics", "state", "tangent")),
    "lyapunov": (uj.lyapunov, {**PROBLEM, "until": 1.0, "count": 1}, ("model", "dynamics", "state")),
    "exact_exponents": (uj.exact_exponents, {"model": MODEL, "dynamics": FLOW}, ("model", "dynamics")),
    "hessian_spectrum": (uj.hessian_spectrum, {"model": MODEL, "states": STATE, "count": 1}, ("model", "states")),
    "observe_state": (uj.observe_state, {"model": MODEL, "state": STATE}, ("model", "state")),
    "verify": (uj.verify, {"run": RUN, "truth": RUN}, ("run", "truth")),
    "ntk_invariant": (uj.ntk_invariant, {"labels": LABELS, "dim": 2, "kernel": np.eye(2)}, ("labels",)),
    "replace": (MODEL.replace, {"labels": LABELS}, ("labels",)),
    "init": (MODEL.init, {"key": KEY}, ("key",)),
    "symmetric_noise": (LABELS.symmetric_noise, {"rate": 0.1, "key": KEY}, ("key",)),
} | {
    case.__name__: (case, {"labels": LABELS, "dim": 2, "decay": 0.1}, ("labels",))
    for case in (uj.regularized, uj.anchored, uj.frozen, uj.spherical)
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), [(name, each) for name, (_, _, all_) in CALLS.items() for each in all_])
def test_objects_of_a_wrong_type_are_refused_by_the_name_of_the_argument(name, argument):
    call, good, _ = CALLS[name]
    belongs, message = OF[argument]
    for what, odd in ODD.items():
        either = belongs == "a state" and argument == "state" and name not in ("limit_sensitivity", "observe_state")
        no_noise = argument == "key" and name == "symmetric_noise" and odd is None
        if what == belongs or (either and what == "a trajectory") or no_noise:
            continue
        with pytest.raises(ValueError, match=message) as raised:
            call(**{**good, argument: odd})
        text = str(raised.value)
        assert text.endswith(".") and "\n" not in text and len(text) < 300, (what, text)


WRONG = {
    "observe, a function": (lambda: uj.exact(*RUNS.values(), observe=lambda m, s: 0), "but got the function <lambda>"),
    "observe, a number": (lambda: uj.exact(*RUNS.values(), observe=3), "observe must be the name of an observable"),
    "observe, numbers": (lambda: uj.exact(*RUNS.values(), observe=[[1e300]]), "must be a string, but got"),
    "observe, a key that is none": (lambda: uj.exact(*RUNS.values(), observe={3: None}), "must be a string, but got 3"),
    "an event that is a mapping": (
        lambda: uj.event_time(MODEL, FLOW, STATE, {"w": 1}, 1.0, times=[0.0, 1.0]),
        "event must be 'accuracy is 1', the name of .* or a list of these, but got {'w': 1}",
    ),
    "times, a text": (lambda: uj.exact(MODEL, FLOW, STATE, "soon"), "times must be real numbers"),
    "times, none": (lambda: uj.exact(MODEL, FLOW, STATE, None), "times must be real numbers"),
    "states, a function": (lambda: uj.simulate(*RUNS.values(), states=len), "states must be True or False"),
    "reduce, a text": (lambda: uj.simulate(*RUNS.values(), reduce="no"), "reduce must be True or False"),
    "an adjoint that is none": (lambda: uj.simulate(*RUNS.values(), adjoint=3), "adjoint must be a diffrax adjoint"),
    "a solver by its name": (lambda: uj.Flow(solver="Tsit5"), "solver must be a diffrax solver"),
    "an optimiser not called": (lambda: uj.Descent(optimizer=optax.adam), "optimizer must be an optax optimiser"),
    "nesterov, a number": (lambda: uj.Descent(nesterov=1000000), "nesterov must be True or False, but got 1000000"),
    "bias, a number": (lambda: uj.unconstrained(LABELS, 2, bias=1), "bias must be True or False"),
    "a tolerance that is a text": (lambda: uj.Flow(rtol="small"), "rtol must be a real number, but got 'small'"),
    "a dimension beyond all": (lambda: uj.unconstrained(LABELS, 10**20 - 1), "dim must be at most 2147483647"),
    "a rescaling without numbers": (lambda: uj.spherical(LABELS, 2, rescale=()), r"a real number, but got \(\)"),
    "a rate of three": (lambda: uj.constant([0.0, 0.0, 0.0]), r"value must be a real number, but got \[0.0, 0"),
    "a decay of one in a list": (lambda: uj.anchored(LABELS, 2, decay=[1.0]), "decay_H must be a real number"),
    "a gamma that is a key": (lambda: uj.unconstrained(LABELS, 2, gamma=KEY), "gamma must be a real number"),
    "smoothing beyond 1": (lambda: LABELS.smoothed(1.5), "amount of smoothing must be one number between 0 and 1"),
    "keys in the place of one": (lambda: MODEL.init(jax.random.split(KEY)), "map over them with jax.vmap"),
    "features that are none": (lambda: MODEL.init(KEY, features={"a": 1}), "features must hold real numbers"),
    "parameters, a number": (lambda: uj.sensitivity(*RUNS.values(), "norm", 3), "parameters must be a list of names"),
    "an end that is no number": (lambda: uj.logspaced(1, "ten", 5), "last must be a real number, but got 'ten'"),
    "a name that is none": (lambda: RUN[["norm"]], "found by its name"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_refused_in_a_sentence(what):
    call, message = WRONG[what]
    with pytest.raises((ValueError, KeyError), match=message) as raised:
        call()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_replacement_may_be_whatever_a_constructor_takes():
    for loss in ("cross_entropy", losses.CrossEntropy(), lambda logits, targets: -jnp.sum(targets * logits, -1)):
        built, replaced = uj.unconstrained(LABELS, 2, loss=loss), uj.unconstrained(LABELS, 2).replace(loss=loss)
        direct = dataclasses.replace(uj.unconstrained(LABELS, 2), loss=loss)
        assert built == replaced == direct
        assert uj.simulate(replaced, FLOW, STATE, [1.0], "loss")["loss"].shape == (1,)
    assert MODEL.replace(kernel=np.eye(2)) == uj.ntk_invariant(LABELS, 2, np.eye(2), decay=0.1)
    free = uj.spherical(LABELS, 2).replace(free_prototypes=True)
    assert free == uj.spherical(LABELS, 2, free_prototypes=True)
    assert STATE.replace(H=[[1, 2], [3, 4]]) == uj.State([[1, 2], [3, 4]], STATE.W, STATE.b)
    assert dataclasses.replace(FLOW, schedule=0.5) == uj.Flow(0.5)
    with pytest.raises(ValueError, match="bias must be True or False"):
        MODEL.replace(bias="yes")


@dataclasses.dataclass(frozen=True)
class Power(Loss):
    """A dataclass that nobody registered."""

    tau: float = 2.0

    def __call__(self, logits, targets):
        return jnp.sum(jnp.abs(logits - targets) ** self.tau, axis=-1)


@dataclasses.dataclass(frozen=True)
class Decorated(Power):
    table: object = None


@dataclasses.dataclass(frozen=True)
class Root(Schedule):
    """eta(t) = scale / sqrt(1 + t), not registered either."""

    scale: float = 1.0

    @property
    def breaks(self):
        return ()

    def _rate(self, t):
        return self.scale / jnp.sqrt(1 + t)

    def _integral(self, t):
        return 2 * self.scale * (jnp.sqrt(1 + t) - 1)


THINGS = {
    "labels": (LABELS, uj.balanced(2, 1), uj.balanced(2, 2)),
    "soft labels": (uj.soft([[0.5, 0.5]]), uj.soft([[0.5, 0.5]]), uj.soft([[0.25, 0.75]])),
    "models": (MODEL, uj.regularized(LABELS, 2, decay=np.float64(0.1)), MODEL.replace(decay=0.2)),
    "models of a kernel": tuple(uj.ntk_invariant(LABELS, 2, k * np.eye(2)) for k in (1.0, 1.0, 2.0)),
    "states": (STATE, jax.tree.map(np.asarray, STATE), STATE.replace(b=np.ones(2))),
    "states of other shapes": (STATE, STATE.replace(), uj.State(np.eye(3), np.eye(3), np.zeros(3))),
    "trajectories": (RUN, jax.tree.map(lambda x: x, RUN), dataclasses.replace(RUN, times=RUN.times + 1)),
    "flows": (uj.Flow(jnp.float32(0.5)), uj.Flow(0.5), uj.Flow(0.25)),
    "schedules": tuple(uj.piecewise(np.array([1.0, x]), np.array([3.0])) for x in (2.0, 2.0, 4.0)),
    "kernels": (Kernel(np.eye(2)), Kernel(jnp.eye(2)), Kernel(np.ones((2, 2)))),
    "limits": tuple(uj.limit(MODEL.replace(decay=d), FLOW, STATE) for d in (0.1, 0.1, 0.2)),
    "losses of one's own": tuple(Decorated(2.0, np.full(3, x)) for x in (1.0, 1.0, 2.0)),
    "not a number": tuple(uj.State(np.full((1, 1), x), np.eye(1), np.zeros(1)) for x in (np.nan, np.nan, 0.0)),
}


@pytest.mark.parametrize("what", THINGS)
def test_equality_is_true_or_false(what):
    one, like, other = THINGS[what]
    assert (one == one) is True and (one == like) is True and (one != like) is False
    assert (one == other) is False and (one != other) is True
    assert (one == 3) is False and (one == None) is False and one != MODEL.dim  # noqa: E711
    try:
        same_hash = hash(one) == hash(like)
    except TypeError:
        same_hash = True  # it has none
    assert same_hash


def test_equality_disturbs_neither_jit_nor_pickle_nor_modules():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def norm(model, state):
        assert (model == model) is True and (state == STATE) is False  # a traced array equals itself alone
        return jnp.linalg.norm(state.W) * model.decay_W

    norm(MODEL, STATE), norm(MODEL.replace(decay=0.2), STATE)
    for thing in (MODEL, LABELS, STATE, FLOW, Root(0.5), Power(3.0)):
        assert pickle.loads(pickle.dumps(thing)) == thing

    class Holder(eqx.Module):
        model: object
        flow: object

    holder = Holder(MODEL, FLOW)
    arrays, rest = eqx.partition(holder, eqx.is_array)
    assert eqx.combine(arrays, rest).model == MODEL
    assert hash(uj.Flow(0.5)) == hash(uj.Flow(np.float64(0.5))) and uj.Flow(0.5) == uj.Flow(np.float64(0.5))


def test_a_loss_that_nobody_registered_is_data():
    state = jax.tree.map(lambda part: np.asarray(part, float), STATE)
    table = uj.sensitivity(MODEL.replace(loss=Power(2.0)), uj.Descent(0.1), state, [3], "loss", ["loss.tau"])

    def last(tau):
        return uj.simulate(MODEL.replace(loss=Power(tau)), uj.Descent(0.1), state, [3], "loss")["loss"][-1]

    slope = (float(last(2.0 + 1e-4)) - float(last(2.0 - 1e-4))) / 2e-4
    assert abs(float(table["first"].item()) - slope) < 1e-6 * abs(slope)
    assert float(last(2.0)) != float(last(3.0)) and jax.tree.leaves(Power(3.0)) == [3.0]


def test_a_loss_that_is_no_dataclass_becomes_one():
    class Plain(Loss):
        tau: float = 2.0

        def __call__(self, logits, targets):
            return jnp.sum(jnp.abs(logits - targets) ** self.tau, axis=-1)

    assert jax.tree.leaves(Plain(3.0)) == [3.0] and Plain(3.0) == Plain(3.0) != Plain(2.0)
    found = [uj.simulate(MODEL.replace(loss=Plain(tau)), uj.Descent(0.1), STATE, [3], "loss")["loss"] for tau in (2, 3)]
    assert not np.allclose(*found)


def test_a_loss_with_an_init_of_its_own_is_refused():
    class Hidden(Loss):
        def __init__(self, tau):
            object.__setattr__(self, "tau", tau)

    with pytest.raises(TypeError, match="Hidden has an `__init__` of its own"):
        Hidden(2.0)


@pytest.mark.long
def test_a_schedule_that_nobody_registered_is_data():
    def last(scale):
        return uj.simulate(MODEL, uj.Descent(Root(scale)), STATE, [5], "log_norm")["log_norm"][-1]

    table = uj.sensitivity(MODEL, uj.Descent(Root(0.5)), STATE, [5], "log_norm", ["schedule.scale"])
    slope = (float(last(0.52)) - float(last(0.48))) / 0.04
    assert np.allclose(table["first"].values.ravel(), slope, rtol=1e-3)


def test_a_loss_in_a_file_takes_its_numbers_from_a_table(tmp_path):
    (tmp_path / "mylib.py").write_text(
        "import dataclasses\nimport jax.numpy as jnp\nfrom unhinged_jax.losses import Loss\n\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass TempCE(Loss):\n    tau: float = 1.0\n\n"
        "    def __call__(self, logits, targets):\n        scaled = logits / self.tau\n"
        "        return -jnp.sum(targets * (scaled - jnp.log(jnp.sum(jnp.exp(scaled), -1, keepdims=True))), -1)\n\n\n"
        "def power(logits, targets, tau=2.0):\n    return jnp.sum(jnp.abs(logits - targets) ** tau, axis=-1)\n"
    )

    def loss(spec):
        tables = {
            "model": {"case": "unconstrained", "dim": 2, "loss": spec},
            "labels": {"layout": "balanced", "classes": 2, "per_class": 1},
            "dynamics": {"kind": "flow"},
            "run": {"times": [1.0]},
        }
        problem = build(config_of(tables, tmp_path / "run.toml"))
        return problem.model.loss(jnp.array([[1.0, -1.0]]), jnp.array([[1.0, 0.0]]))

    assert np.allclose(loss({"name": "mylib:TempCE", "tau": 2.0}), np.log1p(np.exp(-1.0)))
    assert np.allclose(loss("mylib:TempCE"), np.log1p(np.exp(-2.0)))
    assert np.allclose(loss({"name": "mylib:power", "tau": 3.0}), 1.0)
    with pytest.raises(ValueError, match=r"unknown key 'tao'; did you mean 'tau'\?"):
        loss({"name": "mylib:TempCE", "tao": 2.0})


def optimizers():
    return {
        "noisy_sgd": optax.noisy_sgd(0.1, key=jax.random.key(1)),
        "accumulated in float32": optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation(),
    }


@pytest.mark.parametrize("name", list(optimizers()))
def test_optimisers_with_keys_and_narrower_memory_go_on_bit_for_bit(name):
    start, moves = jax.tree.map(lambda part: np.asarray(part, float), STATE), uj.Descent(optimizer=optimizers()[name])
    whole = uj.simulate(MODEL, moves, start, [3, 6], "norm")
    rest = uj.simulate(MODEL, moves, uj.simulate(MODEL, moves, start, [3], "norm"), [6], "norm")
    assert rest.final == whole.final and rest.memory is not None


ASK_FOR_THE_LOSS = {
    "lbfgs": optax.lbfgs, "polyak_sgd": optax.polyak_sgd, "reduce_on_plateau": optax.contrib.reduce_on_plateau,
    "chained": lambda: optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()), "momo": optax.contrib.momo,
}  # fmt: skip


@pytest.mark.parametrize("name", ASK_FOR_THE_LOSS)
def test_optimisers_that_ask_for_the_loss_are_refused(name):
    with pytest.raises(ValueError, match=r"cannot be stepped from gradients.*: use another, such as optax.adam\.$"):
        uj.simulate(MODEL, uj.Descent(optimizer=ASK_FOR_THE_LOSS[name]()), STATE, [3], "norm")


@pytest.mark.long
def test_names_may_be_those_of_numpy():
    names = np.array(["norm", "log_norm"])  # as `dataset.observable.values` gives them
    run = uj.simulate(MODEL, FLOW, STATE, [1.0], names, target=np.str_("top"), precision=np.str_("float32"))
    assert (
        run == uj.simulate(MODEL, FLOW, STATE, [1.0], ["norm", "log_norm"]) and type(next(iter(run.observables))) is str
    )
    when = uj.event_time(MODEL, FLOW, STATE, np.str_("norm"), 1.0, times=[0.0, 1.0], direction=np.str_("above"))
    assert when == uj.event_time(MODEL, FLOW, STATE, "norm", 1.0, times=[0.0, 1.0])
    table = uj.sensitivity(MODEL, FLOW, STATE, [1.0], names[:1], np.array(["eta"]), mode=np.str_("forward"))
    assert table["first"].shape == (2, 1, 1, 1)
    assert uj.exact(MODEL, FLOW, STATE, [1.0], {"norm", "loss"}) == uj.exact(
        MODEL, FLOW, STATE, [1.0], ["loss", "norm"]
    )
    assert uj.simulate(MODEL, FLOW, STATE, [1.0], names, states=np.bool_(False), reduce=np.bool_(True)) == run


@pytest.mark.parametrize("name", ["time", "reached"])
def test_an_observable_cannot_have_the_name_of_a_coordinate(name):
    with pytest.raises(ValueError, match=f"an observable cannot be called '{name}'"):
        uj.exact(MODEL, FLOW, STATE, [1.0], {name: lambda model, state: state.b})


def test_an_observable_may_be_called_like_an_axis_of_another():
    seen = {"a": lambda m, s: s.W, "a_1": lambda m, s: s.b, "a_2": lambda m, s: s.H}
    run = uj.exact(MODEL, FLOW, STATE, [0.0, 1.0], seen)
    table = run.to_xarray()
    assert all(np.array_equal(table[name].values, run[name]) for name in seen)
    twice = {"a": lambda m, s: {"b": s.b}, "a.b": lambda m, s: s.b}
    with pytest.raises(ValueError, match=r"two observables are called 'a\.b' in a table"):
        uj.exact(MODEL, FLOW, STATE, [0.0, 1.0], twice).to_dataframe()


def last_norm(decay, adjoint=None):
    return uj.simulate(MODEL.replace(decay=decay), FLOW, STATE, [1.0], "norm", adjoint=adjoint)["norm"][0]


MODES = {
    "jvp": lambda: jax.jvp(last_norm, (0.1,), (1.0,)),
    "jacfwd": lambda: jax.jacfwd(last_norm)(0.1),
    "hessian": lambda: jax.hessian(last_norm)(0.1),
    "jvp of an event": lambda: jax.jvp(
        lambda decay: uj.event_time(
            MODEL.replace(decay=decay), FLOW, STATE, "norm", 4.0, times=[0.0, 9.0], method="simulate"
        ).time,
        (0.1,), (1.0,),
    ),
}  # fmt: skip


@pytest.mark.long_for("jvp of an event")
@pytest.mark.parametrize("name", MODES)
def test_forward_mode_through_a_flow_names_its_adjoint(name):
    with pytest.raises(ValueError, match=r"give adjoint=diffrax.ForwardMode\(\), or diffrax.DirectAdjoint\(\)"):
        MODES[name]()


def test_backsolving_does_not_differentiate_in_the_times():
    def norm(t):
        times = jnp.array([0.5, 1.0]) * t
        return uj.simulate(MODEL, FLOW, STATE, times, "norm", adjoint=diffrax.BacksolveAdjoint())["norm"][-1]

    with pytest.raises(ValueError, match="does not differentiate with respect to the times"):
        jax.grad(norm)(1.0)
