"""Messages say what was given, what was expected and what helps, also where another word would have misled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import cli, losses
from unhinged_jax.config.files import Files
from unhinged_jax.config.problem import build
from unhinged_jax.config.reading import config_of
from unhinged_jax.diagnosis import doctor
from unhinged_jax.training.experiments.plan import Experiment
from unhinged_jax.training.penalties import feature_penalty
from unhinged_jax.training.settings import Settings
from unhinged_jax.training.setup import loss_of

MODEL = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
STATE = MODEL.init(jax.random.key(0))
FLOW = uj.Flow()
RUN_TABLES = {
    "model": {"case": "unconstrained", "dim": 2},
    "labels": {"layout": "balanced", "classes": 2, "per_class": 1},
    "dynamics": {"kind": "flow"},
    "run": {"times": [1.0]},
}


def built(changes):
    return build(config_of({**RUN_TABLES, **changes}, "run.toml"))


def run_of(problem):
    return problem.model, problem.dynamics, problem.state, problem.times, problem.observe


class Alone(losses.Loss):
    def __call__(self, logits):
        return logits[..., 0]


CROSS = MODEL.replace(loss="cross_entropy")
SAID = {
    "a rate below 0": (lambda: uj.Descent(-0.1), "a constant rate must be finite and at least 0, but got -0.1"),
    "an event of cross-entropy": (
        lambda: uj.event_time(CROSS, FLOW, STATE, "norm", 1.0, times=[0.0, 1.0]),
        "Give method='simulate' to search a simulated run",
    ),
    "an event misspelt": (
        lambda: uj.event_time(MODEL, FLOW, STATE, "accuracy is one", times=[0.0, 1.0]),
        "unknown event 'accuracy is one'; did you mean 'accuracy is 1'?",
    ),
    "the name of a metric begun": (
        lambda: uj.exact(MODEL, FLOW, STATE, [1.0], "nc3"), "'nc3'; did you mean 'nc3_self_duality'?"
    ),
    "a name in capitals": (lambda: uj.exact(MODEL, FLOW, STATE, [1.0], "NC1"), "'NC1'; did you mean 'nc1'?"),
    "an observable of the state alone": (
        lambda: uj.exact(MODEL, FLOW, STATE, [1.0], {"mine": lambda state: state.W}),
        "observable 'mine' is called with (model, state), but its function takes (state); let it take these 2",
    ),
    "an observable that returns nothing": (
        lambda: uj.observe_state(MODEL, STATE, {"mine": lambda model, state: None}),
        "'mine' must return an array, or dictionaries, lists or tuples of arrays, but returned None",
    ),
    "an observable that returns text": (
        lambda: uj.observe_state(MODEL, STATE, {"mine": lambda model, state: "large"}), "but returned 'large'"
    ),
    "an event of three": (
        lambda: uj.event_time(MODEL, FLOW, STATE, lambda a, b, c: 1.0, 1.0, times=[0.0, 1.0]),
        "your event is called with (model, state), but its function takes (a, b, c)",
    ),
    "a loss of the logits alone": (
        lambda: MODEL.replace(loss=lambda logits: logits),
        "loss is called with (logits, targets), but its function takes (logits); let it take",
    ),
    "a class of losses of the logits alone": (lambda: MODEL.replace(loss=Alone()), "but its function takes (logits)"),
    "a schedule of nothing": (
        lambda: uj.Flow(lambda: 0.1),
        "the callable schedule is called with one argument, time, but its function takes ()",
    ),
    "a sweep that is not shipped": (lambda: uj.SweepPlan.read("fase"), "did you mean 'phase'? Shipped: phase, "),
    "a design that is not shipped": (lambda: uj.DesignPlan.read("nope"), "no file 'nope', and none is shipped"),
    "an experiment that is not shipped": (lambda: Experiment.read("fig3"), "did you mean 'fig2'? Shipped: "),
    "a title outside of sections": (
        lambda: config_of({"title": "A run"}, "run.toml"), "the key 'title' is outside every section"
    ),
    "a section of a plan": (
        lambda: config_of({"sweep": {}}, "plan.toml"), "[sweep] belongs to a plan; run it with `unhinged sweep`"
    ),
    "a section misspelt in a plan": (
        lambda: uj.SweepPlan.of({"sweep": {}, "mode": {}}), "Known: model, labels, state, dynamics, run, sweep."
    ),
    "a loss of a head without its name": (
        lambda: Settings.of({"head": {"loss": {"kind": "focal"}}}), "[head] loss needs the key 'name', a name"
    ),
    "a seed below 0": (
        lambda: built({"state": {"seed": -1}}), "seed must be a whole number of at least 0"
    ),
    "a seed beyond 31 bits": (
        lambda: built({"state": {"seed": 2**31}}), "seed must be at most 2147483647"
    ),
    "a complex strength": (
        lambda: feature_penalty(jnp.ones((2, 2)), 1j), "strength of the feature penalty must be a real number"
    ),
    "observables that are none in a file": (
        lambda: uj.exact(*run_of(built({"run": {"times": [1.0], "observe": [[1e300]]}}))),
        "an observable must be a name or a table with a name, but is [1e+300]",
    ),
    "a dimension beyond all in a file": (
        lambda: built({"model": {"case": "frozen", "dim": 99999999999999999999}}),
        "dim must fit 64 bits",
    ),
    "a solver of other equations": (
        lambda: built({"dynamics": {"kind": "flow", "solver": "KenCarp4"}}),
        "unknown solver 'KenCarp4'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_messages_say_what_helps(what):
    call, message = SAID[what]
    with pytest.raises(ValueError) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_focal_loss_of_a_head_is_given_by_its_name():
    settings = Settings.of({"head": {"loss": {"name": "focal", "focusing": 1.0}}})
    assert loss_of(settings) == losses.Focal(1.0)
    with pytest.raises(ValueError, match=r"unknown key 'focussing'; did you mean 'focusing'\?"):
        loss_of(Settings.of({"head": {"loss": {"name": "focal", "focussing": 1.0}}}))


def test_an_array_misspelt_is_named(tmp_path):
    np.savez(tmp_path / "mine.npz", weights=np.ones(2), counts=np.ones(2))
    files = Files(tmp_path)
    with pytest.raises(ValueError, match=r"has no array 'wheights'; did you mean 'weights'\? It has weights, counts"):
        files.array("weights", "mine.npz:wheights")
    with pytest.raises(ValueError, match="say which array"):
        files.array("weights", "mine.npz")


@pytest.mark.parametrize("columns", ["0", "00", "1"])
def test_help_needs_no_columns(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["--help"]) == 0 and len(capsys.readouterr().out) > 100


def test_doctor_asks_for_no_tool_of_the_tests():
    assert not {"chex", "pytest", "hypothesis"} & set(doctor.PACKAGES)
