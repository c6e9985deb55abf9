"""Runs that show how far they are: in pieces that change no number, and interrupted without losing what was reached."""

import contextlib
import os
import re
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax import _interrupt, _terminal
from unhinged_jax.simulation import programs, watched

RNG = np.random.default_rng(0)
LABELS = uj.balanced(3, 4)
START = uj.State(RNG.normal(size=(12, 4)), RNG.normal(size=(3, 4)), RNG.normal(size=3))
LINEAR = uj.regularized(LABELS, 4, decay=2e-2)
MODELS = {
    "linear": LINEAR,
    "sphere": uj.spherical(LABELS, 4),
    "logits": uj.regularized(uj.from_counts([3, 5, 4]), 4, decay=2e-2, loss="cross_entropy"),
}
WAVE = uj.cosine(0.6, 25.0, 0.05)
RUNS = {
    "a flow with breaks": ("linear", uj.Flow(uj.piecewise([0.5, 0.1], [10.0])), [0.0, 3.0, 14.0, 21.0]),
    "a flow that becomes steady": ("logits", uj.Flow(steady=True, rtol=1e-4), [1.0, 20.0, 1e6]),
    "a flow without steps enough": ("sphere", uj.Flow(max_steps=7), [0.1, 5.0, 1e3]),
    "reads at any distances": ("linear", uj.Descent(WAVE, momentum=0.8), [3, 7, 140, 301]),
    "reads far apart": ("sphere", uj.Descent(0.1), [0, 200, 400]),
    "a memory of its own": ("logits", uj.Descent(0.05, optimizer=optax.adam(1.0)), [0, 50, 100]),
    "an overflow": ("logits", uj.Descent(200.0), [0, 60, 100]),
    "nothing to do": ("linear", uj.Descent(0.1), [0]),
}
SEEN = ["norm", "loss"]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def smallest(monkeypatch):
    """Every piece is one step of the solver, or one block of updates."""
    monkeypatch.setattr(watched, "_SECONDS", 0.0)
    monkeypatch.setattr(watched, "_FIRST", 1)


def bits(run):
    arrays = jax.tree_util.tree_leaves_with_path(run)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in arrays}


def near(one, other, tolerance=1e-9):
    for (path, leaf), like in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        size = max(np.nanmax(np.abs(np.asarray(like, float)), initial=0.0), 1e-30)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(np.asarray(leaf) / size, np.asarray(like) / size, atol=tolerance, err_msg=where)


def interrupting(monkeypatch, after):
    """As if Ctrl-C were pressed after so many pieces; a list that counts them."""
    asked = []

    @contextlib.contextmanager
    def noted():
        yield lambda: len(asked) >= after or asked.append(None)

    monkeypatch.setattr(_interrupt, "noted", noted)
    return asked


@pytest.mark.long_for(
    "a flow with breaks", "a flow without steps enough", "reads at any distances", "a flow that becomes steady"
)
@pytest.mark.parametrize("name", RUNS)
def test_where_a_run_is_cut_changes_no_number(name, smallest, monkeypatch):
    kind, dynamics, times = RUNS[name]
    model, pieces = MODELS[kind], []
    compiled = []
    built = programs._system
    monkeypatch.setattr(programs, "_system", lambda job: compiled.append(None) or built(job))
    monkeypatch.setattr(_interrupt, "finished", lambda: pieces.append(None))
    cut = uj.simulate(model, dynamics, START, times, SEEN, states=True, progress=True)
    assert len(pieces) > 3 or name == "nothing to do"
    # To begin, to go on and to end, and once more to find where it overflows.
    assert len(compiled) <= 4 if name == "an overflow" else len(compiled) <= 3
    monkeypatch.setattr(watched, "_SECONDS", 1e9)
    monkeypatch.setattr(watched, "_FIRST", 10**9)
    monkeypatch.setattr(watched, "_GROWTH", 10**6)
    pieces.clear()
    once = uj.simulate(model, dynamics, START, times, SEEN, states=True, progress=True)
    assert len(pieces) < 4 and bits(cut) == bits(once)
    whole = uj.simulate(model, dynamics, START, times, SEEN, states=True)
    assert cut.result is whole.result and int(cut.steps) == int(whole.steps)
    near(cut, whole)


@pytest.mark.long_for("a flow with breaks", "reads at any distances")
@pytest.mark.parametrize("name", ["a flow with breaks", "reads at any distances", "a memory of its own"])
def test_an_interrupted_run_goes_on_to_where_the_whole_ends(name, smallest, monkeypatch, tmp_path):
    kind, dynamics, times = RUNS[name]
    model = MODELS[kind]
    interrupting(monkeypatch, after=4)
    run = uj.simulate(model, dynamics, START, times, SEEN, progress=True)
    assert run.result is uj.RunResult.INTERRUPTED and "give the run in place of a state" in run.result.message
    assert 0 < float(run.elapsed) < times[-1] and not run.reached[-1] and np.all(np.isnan(run["norm"][~run.reached]))
    run.save(tmp_path / "run.npz")
    assert bits(uj.load(tmp_path / "run.npz", dynamics)) == bits(run)
    rest = uj.simulate(model, dynamics, run, np.asarray(times)[~np.asarray(run.reached)], SEEN)
    whole = uj.simulate(model, dynamics, START, times, SEEN)
    joined = uj.concat([run, rest])
    assert joined.times.tolist() == list(times) and joined.result is uj.RunResult.COMPLETED
    near(joined.observables, whole.observables, 1e-4 if isinstance(dynamics, uj.Flow) else 1e-11)
    near(joined.final, whole.final, 1e-4 if isinstance(dynamics, uj.Flow) else 1e-11)


FLOW, HEAVY = uj.Flow(), uj.Descent(0.1, momentum=0.5)


@pytest.mark.parametrize(("shape", "dynamics"), [
    ((3,), HEAVY), pytest.param((1,), FLOW, marks=pytest.mark.long), pytest.param((2, 3), FLOW, marks=pytest.mark.long),
])  # fmt: skip
def test_a_batch_goes_on_in_pieces_and_can_be_interrupted(shape, dynamics, monkeypatch):
    def begin(key):
        return uj.simulate(LINEAR, dynamics, LINEAR.init(key), [2], "norm", states=True)

    keys = jax.random.split(jax.random.key(0), shape)
    for _ in shape:
        begin = jax.vmap(begin)
    batch = begin(keys)
    whole = uj.simulate(LINEAR, dynamics, batch, [4, 6, 8], "norm", states=True)
    interrupting(monkeypatch, after=1)
    part = uj.simulate(LINEAR, dynamics, batch, [4, 6, 8], "norm", states=True, progress=True)
    assert np.all(part.code == uj.RunResult.INTERRUPTED) and part.times.shape == (*shape, 3)
    assert part.reached[..., :2].all() and not part.reached[..., 2].any() and np.isnan(part["norm"][..., 2]).all()
    rest = uj.simulate(LINEAR, dynamics, part, [8], "norm", states=True, progress=True)
    joined = uj.concat([part, rest])
    assert joined.batch == shape and np.all(joined.code == uj.RunResult.COMPLETED)
    near((joined.observables, joined.final, joined.states), (whole.observables, whole.final, whole.states), 1e-5)


def test_members_that_end_early_are_what_they_are_without_pieces():
    wild = uj.Descent(200.0)
    model = MODELS["logits"]
    starts = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf), 0 * jnp.asarray(leaf)]), START)
    batch = jax.vmap(lambda state: uj.simulate(model, wild, state, [2], "norm"))(starts)
    times = [4, 60, 100]
    shown = uj.simulate(model, wild, batch, times, "norm", progress=True)
    whole = uj.simulate(model, wild, batch, times, "norm")
    assert np.asarray(shown.code).tolist() == np.asarray(whole.code).tolist() and len(set(shown.code.tolist())) == 2
    assert shown.reached.tolist() == np.asarray(whole.reached).tolist()


def test_progress_belongs_outside_transformations():
    def one(key):
        return uj.simulate(LINEAR, uj.Flow(), LINEAR.init(key), [1.0], "norm", progress=True)["norm"]

    keys = jax.random.split(jax.random.key(0), 2)
    for call in (lambda: jax.vmap(one)(keys), lambda: jax.jit(one)(keys[0])):
        with pytest.raises(ValueError, match=r"progress=True belongs to a run outside jax\.jit, jax\.vmap"):
            call()
    with pytest.raises(ValueError, match="progress must be True or False"):
        uj.simulate(LINEAR, uj.Flow(), START, [1.0], "norm", progress="yes")


@pytest.fixture
def _python_hears():
    """A shell starts what is put behind deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pressed(times):
    """Press Ctrl-C after some seconds each, while the main thread is busy."""

    def press():
        for seconds in times:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


ENDLESS = uj.Descent(1e-3), [0, 10**9]


@pytest.mark.usefixtures("_python_hears")
def test_ctrl_c_returns_what_was_reached(capfd, monkeypatch):
    told = _interrupt.finished
    monkeypatch.setattr(_interrupt, "finished", lambda: told() or begun or begun.append(None) or pressed([0.2]))
    begun = []
    run = uj.simulate(LINEAR, ENDLESS[0], START, ENDLESS[1], "norm", progress=True)
    assert run.result is uj.RunResult.INTERRUPTED and run.reached.tolist() == [True, False] and int(run.elapsed) > 0
    assert int(run.steps) == int(run.elapsed) < 10**9
    assert "Ctrl-C: ending after the piece in hand" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_python_hears")
def test_ctrl_c_once_more_raises():
    with _interrupt.noted() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_pipe_hears_a_line_now_and_then(capfd, monkeypatch):
    monkeypatch.delenv("UNHINGED_QUIET", raising=False)
    monkeypatch.setattr(_terminal, "SAID_EVERY", 0.2)
    with _terminal.ProgressBar(1000, "Simulating", unit="updates", notes=("failed",)) as bar:
        bar.update(100)
        bar.update(100 + 50)
        now = time.monotonic()
        bar._first, bar._latest = (now - 10, 100), (now, 600)
        bar.update(600, failed="3 failed")
        time.sleep(0.5)
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[-1] == "unhinged: Simulating: 60%, 600 of 1,000 updates, 50 updates/s, 0:00:08 left, 3 failed"


@pytest.mark.parametrize("quiet", [True, False])
def test_a_run_in_a_pipe_says_how_far_it_is_unless_it_is_to_be_quiet(quiet, capfd, monkeypatch):
    monkeypatch.delenv("UNHINGED_QUIET", raising=False)
    if quiet:
        monkeypatch.setenv("UNHINGED_QUIET", "1")
    monkeypatch.setattr(_terminal, "SAID_EVERY", 0.001)
    uj.simulate(LINEAR, uj.Descent(0.1), START, [0, 2000], "norm", progress=True)
    said = capfd.readouterr().err
    assert (said == "") if quiet else re.search(r"unhinged: \w+: \d+%, [\d,]+ of 2,000 updates\n", said)
    uj.simulate(LINEAR, uj.Descent(0.1), START, [0, 2000], "norm")
    assert capfd.readouterr().err == ""
