"""The benchmarks run, measure what they say, and are read back; no test here judges a time."""

import dataclasses
import json
import math
import re
import socket

import figure_rules
import numpy as np
import pytest
from checkout import ROOT

import unhinged_jax as uj
from benchmarks import (
    acceptance,
    cli,
    compare,
    costs,
    figures,
    latency,
    load,
    machine,
    memory,
    ours,
    page,
    record,
    reference,
    timing,
    words,
)
from benchmarks import scaling as scaling_module
from benchmarks.case import Case
from benchmarks.contender import Contender
from benchmarks.costs import Cost
from benchmarks.peers import by_c, by_jax, by_numpy, by_solvers, by_torch
from benchmarks.workloads import all_workloads

TINY = Case("descent", "tiny", "float64", classes=3, per_class=4, dim=70, steps=60, every=20)
FLOW = Case(
    "flow", "tiny", "float64", classes=3, per_class=4, dim=5, rate=1.0, decay=0.02, horizon=10.0, points=4, rtol=1e-7
)


# --- timing on synthetic samples -----------------------------------------------------------------------------------


class FakeTime:
    """A clock that only sleeping and working move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def work(self, seconds):
        return lambda: self.sleep(seconds)


class FakeMeter:
    """Foreign loads from a list, the last one for ever."""

    def __init__(self, *loads):
        self.loads = list(loads)

    def begin(self):
        pass

    def foreign(self):
        return self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]


def rounds_of(durations, limits, *loads):
    time = FakeTime()
    runs = {name: time.work(seconds) for name, seconds in durations.items()}
    return timing.alternate(runs, limits, FakeMeter(*loads), time, time.sleep)


def test_quartiles_and_ratios_of_known_samples():
    assert timing.quartiles([3.0, 1.0, 2.0, 4.0, 5.0]) == timing.Quartiles(3.0, 2.0, 4.0)
    assert timing.quartiles([1.0, 5.0]) == timing.Quartiles(3.0, 1.0, 5.0)
    found = timing.ratio(timing.Quartiles(6.0, 5.0, 7.0), timing.Quartiles(2.0, 1.0, 2.5))
    assert (found.value, found.lower, found.upper) == (3.0, 2.0, 7.0)


def test_samples_are_stable_only_if_everybody_is():
    limits = timing.Limits(least=3, spread=0.05)
    calm, wild = [1.0, 1.01, 0.99, 1.0], [1.0, 1.3, 0.8, 1.1]
    assert timing.stable({"a": calm, "b": calm}, limits)
    assert not timing.stable({"a": calm, "b": wild}, limits)
    assert not timing.stable({"a": calm, "b": calm[:2]}, limits)


def test_rounds_stop_when_stable_and_repeat_short_calls_inside_a_sample():
    limits = timing.Limits(least=3, most=10, sample=0.1)
    found = rounds_of({"short": 0.01, "long": 1.0}, limits, 0.0)
    assert found.kept == 3 and found.dropped == 0 and found.quiet is True
    assert found.samples["short"] == pytest.approx([0.01] * 3)
    assert found.samples["long"] == pytest.approx([1.0] * 3)


def test_rounds_alternate_their_order():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    timing.alternate(runs, timing.Limits(least=2, most=2, sample=0.0, settle=0.0), FakeMeter(0.0))
    assert order == ["a", "b", "b", "a"]


def test_noisy_rounds_are_dropped_and_said_if_they_had_to_be_used():
    limits = timing.Limits(least=2, most=6, sample=0.1, foreign=0.15)
    found = rounds_of({"a": 1.0}, limits, 0.9, 0.0, 0.8, 0.1)
    assert (found.kept, found.dropped, found.quiet, found.foreign) == (2, 2, True, 0.1)
    found = rounds_of({"a": 1.0}, limits, 0.9)
    assert (found.kept, found.dropped, found.quiet, found.foreign) == (6, 0, False, 0.9)
    found = rounds_of({"a": 1.0}, limits, None)
    assert found.quiet is None and found.foreign is None


def test_rounds_end_when_time_is_up_but_not_before_the_least():
    time = FakeTime()
    durations = iter([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    runs = {"a": lambda: time.sleep(next(durations))}
    found = timing.alternate(runs, timing.Limits(least=3, most=8, seconds=4.0), FakeMeter(0.0), time, time.sleep)
    assert found.kept == 3
    # A first round of short calls only counts them.
    found = rounds_of({"a": 0.01, "b": 9.0}, timing.Limits(least=3, seconds=4.0, sample=0.1), 0.0)
    assert found.kept == 3 and found.quiet is True


def test_waiting_for_quiet_ends_with_quiet_or_with_patience():
    waits = []
    assert load.wait_for_quiet(FakeMeter(1.0, 0.8, 0.05), 0.15, 60, waits.append) == (2.0, 0.05)
    assert len(waits) == 3
    assert load.wait_for_quiet(FakeMeter(1.0), 0.15, 3, waits.append) == (3.0, 1.0)


# --- references and contenders -------------------------------------------------------------------------------------


def plain_loop(case, downhill):
    """Dense updates in NumPy with nothing shared with references or contenders."""
    (H, W), C = case.start(), case.classes
    Y = np.eye(C)[case.index]
    states = [(H, W)]
    for _ in range(case.steps):
        move_H, move_W = downhill(H, W, Y)
        H, W = H + case.rate * move_H, W + case.rate * move_W
        states.append((H, W))
    return states[:: case.every], Y


def unhinged_downhill(case):
    gamma = case.gammas[0]

    def downhill(H, W, Y):
        M = ((1 + gamma) * Y - gamma) / len(H)
        return M @ W - case.decay * H, M.T @ H - case.decay * W

    return downhill


@pytest.mark.parametrize(("gamma", "decay"), [(None, 0.0), (0.3, 0.0), (0.45, 0.07)])
def test_the_extended_reference_is_what_plain_updates_give(gamma, decay):
    case = TINY.replace(gamma=(gamma,) if gamma else (), decay=decay)
    states, Y = plain_loop(case, unhinged_downhill(case))
    g = case.gammas[0]
    truth = reference.linear(case)
    for k, (H, W) in enumerate(states):
        logits = H @ W.T
        loss = -np.mean(np.sum(((1 + g) * Y - g) * logits, axis=1))
        assert float(truth["loss"][k]) == pytest.approx(loss, rel=1e-12)
        assert float(truth["norm"][k]) == pytest.approx(np.sqrt(np.sum(H**2) + np.sum(W**2)), rel=1e-13)
        assert truth["accuracy"][k] == np.mean(logits.argmax(axis=1) == case.index)
    # The limit, as what many more updates lead to.
    (H, W), far = states[-1], plain_loop(case.replace(steps=4000, every=4000), unhinged_downhill(case))[0][-1]
    unit = [np.concatenate([a.ravel(), b.ravel()]) for a, b in ((H, W), far)]
    unit = [z / np.linalg.norm(z) for z in unit]
    assert float(truth["distance"][-1]) == pytest.approx(np.linalg.norm(unit[0] - unit[1]), rel=1e-9)


def test_the_flow_reference_is_the_matrix_exponential():
    from scipy.linalg import expm

    truth, g = reference.linear(FLOW), FLOW.gammas[0]
    M = ((1 + g) * np.eye(FLOW.classes)[FLOW.index] - g) / FLOW.samples
    n = FLOW.samples
    K = np.block([[np.zeros((n, n)), M], [M.T, np.zeros((FLOW.classes, FLOW.classes))]])
    K -= FLOW.decay * np.eye(len(K))
    start = np.concatenate(FLOW.start())
    norms = [np.linalg.norm(expm(K * t) @ start) for t in FLOW.times]
    np.testing.assert_allclose(truth["norm"].astype(float), norms, rtol=1e-13)


def test_the_reference_derivative_is_that_of_the_reference():
    case = TINY.replace(decay=0.05)
    modes, factor = reference.Modes(case, *case.start()), reference.descent_factor(case)
    value, slope = modes.last_norm(case.gammas[0], case.decay, factor)
    norms = [modes.curves(case.gammas[0], case.decay + shift, factor)["norm"][-1] for shift in (-1e-6, 0, 1e-6)]
    assert float(value) == pytest.approx(float(norms[1]), rel=1e-15)
    assert float(slope) == pytest.approx(float((norms[2] - norms[0]) / 2e-6), rel=1e-9)


def outputs(build, case):
    return {name: np.asarray(value) for name, value in build(case)().items() if name != "evaluations"}


def test_everybody_who_descends_descends_the_same_way():
    pytest.importorskip("torch")
    truth = reference.linear(TINY)
    builds = [ours.one(uj.simulate), ours.one(uj.exact), by_numpy.descent, by_numpy.closed_form, by_jax.descent]
    builds += [by_torch.descent] + ([by_c.descent] if by_c.refuses(TINY) is None else [])
    for build in builds:
        errors = reference.errors(outputs(build, TINY), truth)
        assert set(errors) == {"loss", "accuracy", "norm", "distance"}
        assert max(errors.values()) < 1e-12, build


def test_everybody_on_spheres_and_under_cross_entropy_agrees():
    pytest.importorskip("torch")
    sphere = TINY.replace(spherical=True, rate=50.0)
    entropy = TINY.replace(loss="cross_entropy", steps=40)
    for case, truth, by_hand in (
        (sphere, reference.spherical(sphere), by_numpy.spherical),
        (entropy, reference.entropy_descent(entropy), by_numpy.entropy),
    ):
        for build in (by_hand, by_jax.descent, by_torch.descent):
            assert max(reference.errors(outputs(build, case), truth).values()) < 1e-11, (case.loss, build)


def test_every_solver_of_a_flow_meets_its_tolerance():
    pytest.importorskip("torchdiffeq")
    for case, solve in ((FLOW, reference.linear), (FLOW.replace(loss="cross_entropy"), reference.entropy_flow)):
        truth = solve(case)
        for build in (by_solvers.flow_by_diffrax, by_solvers.flow_by_scipy, by_torch.flow):
            errors = reference.errors(outputs(build, case), truth)
            assert max(errors["loss"], errors["norm"]) < 1e-5, build
            assert int(np.asarray(build(case)()["evaluations"])) > 0


def test_every_way_through_a_sweep_gives_the_same_runs():
    pytest.importorskip("torch")
    case = TINY.replace(workload="sweep", gamma=(0.2, 0.5), seeds=2, dim=5)
    truth = reference.linear(case)
    for build in (by_jax.sweep_by_vmap, by_jax.sweep_by_loop, by_torch.sweep_by_vmap, by_torch.sweep_by_loop):
        found = outputs(build, case)
        assert found["norm"].shape == (2, 2, 4)
        assert max(reference.errors(found, truth).values()) < 1e-12, build


@pytest.mark.long
def test_every_way_through_an_ensemble_has_the_same_expectation():
    case = TINY.replace(workload="stochastic", dim=40, decay=0.1, rate=0.5, batch=3, seeds=2000)
    truth = reference.stochastic(case)
    exact = uj.exact(ours.model_of(case), ours.dynamics_of(case), ours.state_of(case), case.times, list(truth))
    for name, values in truth.items():
        np.testing.assert_allclose(exact[name], values, rtol=1e-10)
    peers = by_jax.stochastic_by_rows, by_jax.stochastic_by_rows_in_groups, by_jax.stochastic_by_weights
    for build in (ours.ensemble(uj.simulate), *peers):
        found = outputs(build, case)
        for name, values in truth.items():
            np.testing.assert_allclose(found[name], values, rtol=0.05, err_msg=f"{build} {name}")


def test_errors_see_what_is_wrong_and_where():
    truth = {"norm": np.array([1.0, 2.0]), "loss": np.array([-4.0, 1e-9]), "accuracy": np.array([0.5, 1.0])}
    truth["loss_bound"] = np.array([4.0, 4.0])
    given = {"norm": np.array([1.0, 2.002]), "loss": np.array([-4.0, 1e-3]), "accuracy": np.array([0.5, 0.75])}
    errors = reference.errors(given, truth)
    assert errors == pytest.approx({"norm": 1e-3, "loss": 2.5e-4, "accuracy": 0.25}, rel=1e-3)
    assert math.isnan(reference.errors({"norm": np.array([1.0, np.inf])}, truth)["norm"])
    assert reference.errors({"norm": np.array([1.0])}, truth) == {"norm": 0.0}  # a part of the work


def test_workloads_scale_shares_to_the_whole():
    contender = Contender("slow", lambda case: dict, lambda case, count: Cost(1, 1), share={"tiny": 0.4})
    part, factor = contender.part(TINY)
    assert (part.steps, factor) == (20, 3.0)
    runs = dataclasses.replace(contender, fewer_runs=True, share={"tiny": 0.25})
    part, factor = runs.part(TINY.replace(seeds=8))
    assert (part.seeds, part.steps, factor) == (2, 60, 4.0)


def test_every_workload_says_what_it_leaves_out():
    for name, workload in all_workloads().items():
        assert workload.name == name
        assert workload.contenders or workload.skips
        assert len({contender.name for contender in workload.contenders}) == len(workload.contenders)


def test_xla_counts_operations_and_each_loop_body_once():
    import jax
    import jax.numpy as jnp

    def repeated(times):
        return jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda _, x: x @ x, x)).lower(jnp.eye(16))

    counted = [costs.of_xla(repeated(times)) for times in (2, 50)]
    assert 2 * 16**3 <= counted[0]["flops"] < 3 * 16**3
    assert counted[0] == counted[1]
    tiny = TINY.replace(steps=2, every=2)
    for lowered in (by_jax.lowered_descent(tiny), by_solvers.lowered_flow(FLOW)):
        found = costs.of_xla(lowered)
        assert found["flops"] > 0 and found["bytes"] > 0


def test_memory_is_measured(capsys):
    assert memory.probe("exact", "small", "float64", "NumPy by hand") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["base"] <= found["peak"]


def test_slopes_of_known_powers():
    assert scaling_module.slope([1, 10, 100], [2.0, 20.0, 200.0]) == pytest.approx(1.0)
    assert scaling_module.slope([1, 4, 16], [3.0, 6.0, 12.0]) == pytest.approx(0.5)
    assert scaling_module.slope([1], [3.0]) is None


# --- records, comparison, bounds -----------------------------------------------------------------------------------


def result(name, seconds, *, noise=0.01, error=1e-15, ours_error=None, **more):
    return record.Result(
        contender=name,
        ours=name.startswith("unhinged_jax"),
        seconds=seconds,
        lower=seconds * (1 - noise),
        upper=seconds * (1 + noise),
        samples=[seconds],
        share=1.0,
        first=seconds,
        compile=0.0,
        rate=1 / seconds,
        flops=1e9,
        bytes=1e9,
        xla=None,
        bandwidth=0.1,
        gemm=0.1,
        error={"norm": error},
        ours_error=ours_error or {},
        **more,
    )


def report(*results, workload="descent", size="paper", precision="float64", others=(), **more):
    shape = {"C": 100, "N": 10, "p": 512, "n": 1000, "runs": 1, "steps": 50_000, "points": 501}
    cell = record.Cell(
        workload, "a title", "steps", size, precision, shape, 3, 0, True, 0.0, list(results), list(others)
    )
    fields = {"scaling": [], "startup": {}, **more}
    return record.Report(
        date="2026-01-01 00:00 UTC", options={}, machine=machine.describe(), seconds=1.0,
        peaks={"memory": {"rate": 1e11, "by": "c", "ways": {"c": 1e11}}}, cells=[cell],
        skipped=[record.Skipped("training", "", "", "training", "no module")], **fields,
    )  # fmt: skip


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "a" / "results.json"
    series = record.Series("n", "who", "seconds", [1, 2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], 1.0)
    given = report(result("PyTorch", 1.5), scaling=[series], startup={"x": {"median": 1.0}})
    record.write(given, path)
    assert record.read(path) == given
    broken = report(result("PyTorch", 1.5, error=math.nan))
    record.write(broken, path)
    assert math.isnan(record.read(path).cells[0].results[0].error["norm"])


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', '{"schema": 1, "date": "x"}', '{"schema": 1, "new": 2}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(record.RecordError, match=r"results\.json"):
        record.read(path)


def compared(tmp_path, before, after, *arguments):
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for given, path in zip((before, after), paths, strict=True):
        record.write(given, path)
    return cli.main(["compare", *map(str, paths), *arguments])


def test_compare_fails_only_for_what_is_slower_beyond_threshold_and_noise(tmp_path, capsys):
    mine, peer = "unhinged_jax simulate", "PyTorch"
    before = report(result(mine, 1.0), result(peer, 10.0))
    assert compared(tmp_path, before, before) == 0
    assert compared(tmp_path, before, report(result(mine, 1.2), result(peer, 10.0))) == 1
    assert compared(tmp_path, before, report(result(mine, 1.2)), "--threshold", "1.3") == 0
    assert compared(tmp_path, before, report(result(mine, 1.2, noise=0.5))) == 0  # within its noise
    assert compared(tmp_path, before, report(result(mine, 1.0), result(peer, 20.0))) == 0  # a peer may get slower
    capsys.readouterr()


def test_compare_can_take_the_machine_out(tmp_path, capsys):
    mine, peer = "unhinged_jax simulate", "PyTorch"
    before = report(result(mine, 1.0), result(peer, 10.0))
    after = report(result(mine, 2.0), result(peer, 20.0))
    assert compared(tmp_path, before, after) == 1
    assert compared(tmp_path, before, after, "--against", peer) == 0
    capsys.readouterr()


def test_compare_refuses_what_cannot_be_compared(tmp_path, capsys):
    one = report(result("PyTorch", 1.0))
    assert compared(tmp_path, one, report(result("PyTorch", 1.0), workload="ce")) == 2
    assert compared(tmp_path, one, one, "--threshold", "0.5") == 2
    assert cli.main(["compare", str(tmp_path / "none.json"), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_records_of_unlike_machines_are_told_apart():
    one = report(result("PyTorch", 1.0))
    other = dataclasses.replace(one, machine={**one.machine, "cpu": "another"})
    assert compare.differences(one, one) == []
    assert any("another" in line for line in compare.differences(one, other))


def verdict(given, words):
    return next(v for v in acceptance.verdicts(given) if words in v.what)


def test_bounds_are_met_or_not_by_ratios_of_medians():
    exact, simulate = result("unhinged_jax exact", 0.1), result("unhinged_jax simulate", 1.0)
    given = report(exact, simulate, result("PyTorch", 61.0), result("C by hand", 0.9, noise=0.2))
    assert verdict(given, "curve, exact, against the PyTorch").met is True
    assert verdict(given, "curve, simulated, against the PyTorch").met is True
    assert verdict(given, "against C by hand").met is True  # level within noise
    slower = report(exact, simulate, result("PyTorch", 59.0), result("C by hand", 0.5))
    assert verdict(slower, "curve, simulated, against the PyTorch").met is False
    assert verdict(slower, "against C by hand").met is False
    assert verdict(given, "sweep, exact, against the PyTorch").met is None


def test_equal_error_takes_the_fastest_solve_that_is_exact_enough():
    mine = "unhinged_jax simulate"
    loose, tight = result(mine, 0.1, error=1e-3, rtol=1e-4), result(mine, 2.0, error=1e-7, rtol=1e-6)
    peer = result("plain diffrax", 8.0, error=1e-5, rtol=1e-6)
    given = report(tight, peer, workload="flow", others=[loose])
    assert verdict(given, "regularised flow").met is False  # 4x, by the tight solve
    given = report(tight, dataclasses.replace(peer, error={"norm": 1e-2}), workload="flow", others=[loose])
    assert verdict(given, "regularised flow").met is True


def test_errors_of_ours_are_held_against_the_peers_on_the_same_part():
    mine = "unhinged_jax simulate"
    peer = result("PyTorch", 1.0, error=1e-12, ours_error={mine: {"norm": 1e-11}})
    assert acceptance.worse_than_peers(report(peer)) != []
    assert verdict(report(peer), "error of everything").met is False
    rounding = result("PyTorch", 1.0, error=1e-17, ours_error={mine: {"norm": 1e-15}})
    assert acceptance.worse_than_peers(report(rounding)) == []
    itself = result("NumPy by hand", 1.0, error=0.0, ours_error={mine: {"norm": 1e-11}})
    assert acceptance.worse_than_peers(report(itself)) == []  # a difference to itself is no error
    assert acceptance.worst({"norm": math.nan, "accuracy": 0.0}) == math.inf


def test_scaling_and_startup_bounds():
    name = "unhinged_jax simulate"
    batch = record.Series("batch", name, "seconds a run", [1, 4, 16], [1.0, 0.5, 0.6], [0.0] * 3, [1.0] * 3, -0.2)
    samples = record.Series("n", name, "s", [1000, 10_000, 100_000], [1.0, 1.0, 9.0], [0.0] * 3, [1.0] * 3, 0.5)
    startup = {"import jax, diffrax": {"median": 1.0}, "import jax, diffrax, unhinged_jax": {"median": 1.4}}
    given = report(result(name, 1.0), scaling=[batch, samples], startup=startup)
    found = [v for v in acceptance.verdicts(given) if v.what.endswith(name)]
    assert [v.met for v in found] == [False, True]  # 1.2 times the least; slope 0.95
    assert verdict(given, "`import unhinged_jax`").met is True


def test_records_of_one_machine_become_one():
    machine = {**report().machine, "device": "a", "commit": "b"}

    def one(workload, rates, **more):
        ways = dict(zip(("jax", "torch"), rates, strict=True))
        gemm = {"rate": max(rates), "by": max(ways, key=ways.get), "ways": ways}
        peaks = {**report().peaks, "gemm_float64": gemm}
        mine = dataclasses.replace(result("NumPy by hand", 1.0), gemm=0.5)
        given = dataclasses.replace(report(mine, workload=workload), machine=machine, peaks=peaks)
        return dataclasses.replace(given, options={"workloads": [workload], "quick": False}, seconds=2.0, **more)

    whole = record.merged([one("descent", (2.0, 1.0)), one("flow", (1.0, 4.0)), one("exact", (1.0, 1.0))])
    assert [cell.workload for cell in whole.cells] == ["descent", "flow", "exact"] == whole.options["workloads"]
    assert whole.peaks["gemm_float64"] == {"rate": 4.0, "by": "torch", "ways": {"jax": 2.0, "torch": 4.0}}
    assert [cell.results[0].gemm for cell in whole.cells] == [0.25, 0.5, 0.125]  # shares of the highest peak
    assert whole.seconds == 6.0
    with pytest.raises(record.RecordError, match="flow, paper, float64 was measured in two"):
        record.merged([one("flow", (1.0, 1.0)), one("flow", (1.0, 1.0))])
    startup = {"import": {"median": 1.0, "lower": 1.0, "upper": 1.0}}
    with pytest.raises(record.RecordError, match="import was measured in two"):
        record.merged([one(name, (1.0, 1.0), startup=startup) for name in ("flow", "exact")])
    other = dataclasses.replace(one("flow", (1.0, 1.0)), machine={**machine, "commit": "c"})
    with pytest.raises(record.RecordError, match="commit is 'b' in the first and 'c' in another"):
        record.merged([one("descent", (1.0, 1.0)), other])
    other = dataclasses.replace(one("flow", (1.0, 1.0)), options={"workloads": ["flow"], "quick": True})
    with pytest.raises(record.RecordError, match="quick is False in the first and True in another"):
        record.merged([one("descent", (1.0, 1.0)), other])


# --- from end to end -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_quick_run_writes_a_record_and_a_page_that_name_nobody(tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--quick", "--no-wait", "--no-scaling", "--workload", "spherical", "training", "--out", str(out)]
    assert cli.main(arguments) == 0
    found = record.read(out / "results.json")
    cell, training = found.cells
    assert training.workload == "training" and len(training.results) >= 3
    assert all(max(one.error.values()) < 1e-12 for one in training.results)
    assert (cell.workload, cell.size, cell.precision) == ("spherical", "small", "float64")
    assert {"unhinged_jax simulate", "unhinged_jax exact", "NumPy by hand", "naive JAX"} <= {
        one.contender for one in cell.results
    }
    for one in cell.results:
        assert 0 < one.lower <= one.seconds <= one.upper
        assert one.flops > 0 and one.bytes > 0 and one.bandwidth > 0 and one.gemm > 0
        assert set(one.error) == {"loss", "accuracy", "norm", "distance"}
        assert max(one.error.values()) < 1e-9
    assert any(skipped.workload == "training" for skipped in found.skipped)
    assert cli.main(["page", str(out / "results.json"), "--out", str(tmp_path / "docs" / "benchmarks.md")]) == 0
    assert "not measured" in capsys.readouterr().out
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} == {".json", ".md", ".svg"}
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
        assert str(tmp_path) not in text and str(ROOT) not in text


@pytest.mark.long
def test_a_trace_is_written(tmp_path, capsys):
    assert cli.main(["--trace", str(tmp_path), "--quick", "--workload", "exact"]) == 0
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize("arguments", [["--workload", "nothing"], ["--size", "huge"], ["page", "none.json"], ["merge"]])
def test_bad_input_is_one_line(arguments, tmp_path, capsys):
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == cli.BAD_INPUT
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_figures_of_nothing_are_no_figures(tmp_path):
    empty = dataclasses.replace(report(), cells=[], peaks={})
    assert figures.work_precision(empty, tmp_path / "a.svg") is None
    assert figures.roofline(empty, tmp_path / "b.svg") is None
    assert figures.scaling([], tmp_path / "c.svg") is None
    assert "How it was measured" in page.text(empty, {})


def test_pages_say_times_and_errors_in_words_a_reader_can_read():
    """No 3.01e+05×, no 0 ns, no negative seconds; errors have a table of their own, and a short table is first."""
    slow = dataclasses.replace(result("PyTorch", 301_234.0, error=2.3e-4), compile=-0.2)
    startup = {"import jax, diffrax": {"median": 0.90}, "import jax, diffrax, unhinged_jax": {"median": 0.88}}
    startup = {name: {**of, "lower": 0.8, "upper": 1.0} for name, of in startup.items()}
    given = report(result("unhinged_jax simulate", 1.0), slow, workload="ce_flow", startup=startup)
    text = page.text(given, {})
    assert "301,000×" in text and "2.3 × 10⁻⁴" in text and "none beyond the noise" in text
    assert not re.search(r"\d(\.\d+)?e[+-]\d|\b0 ns\b|-0\.\d+ s\b", text)
    assert "### Cross-entropy flow, the paper's size, float64" in text and "ce_flow" not in text
    heads = re.findall(r"^\| .*\|$(?=\n\|---)", text, re.M)
    (times,) = (line for line in heads if "quartiles" in line and "contender" in line)
    assert "error" not in times and any(line.startswith("| largest error of | norm |") for line in heads)
    assert text.index("## In short") < text.index("## The machine") < text.index("### Cross-entropy flow")


def test_a_slope_is_given_only_where_a_power_describes_the_costs():
    def series(costs):
        values = [1, 2, 4, 8]
        slope = scaling_module.slope(values, costs)
        return record.Series("devices", "unhinged_jax simulate", "seconds", values, costs, costs, costs, slope)

    assert words.slope(series([8.0, 4.0, 2.0, 1.0])) == "−1.00"
    assert words.power(series([8.0, 4.0, 2.0, 1.0])) == pytest.approx([8.0, 4.0, 2.0, 1.0])
    assert words.slope(series([18.3, 11.7, 12.9, 18.6])) == "no power"  # falls and rises: its slope would be 0


def test_figures_of_benchmarks_are_readable(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.setdefault(path.stem, figure))
    found = record.read(ROOT / "benchmarks" / "results" / "2026-11-26-two-cores.json")
    figures.work_precision(found, tmp_path / "work")
    figures.roofline(found, tmp_path / "roofline")
    figures.scaling(found.scaling, tmp_path / "scaling")
    assert {name: figure_rules.faults(figure) for name, figure in drawn.items()} == {name: [] for name in drawn}
    assert len(drawn) == 3
    (legend,) = drawn["work"].legends
    looks = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in legend.get_lines()]
    assert len({*looks}) == len(looks) <= 11  # nobody shares a mark


# --- first calls ---------------------------------------------------------------------------------------------------


def test_a_first_call_is_timed_and_a_later_one_compiles_nothing(capsys):
    assert latency.probe("naive JAX, descent") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["first"] > 0 < said["again"] and said["compiled_again"] == 0


def test_first_calls_are_judged_against_plain_diffrax():
    times = {"cold": 3.0, "warm": 1.0, "again": 0.01, "compiled_again": 0.0}
    found = {name: dict(times) for name in latency.FIRST_CALLS}
    found[latency.YARDSTICK]["cold"] = 1.5
    found["exact, flow"]["compiled_again"] = 2.0
    found[latency.README] = {"cold": 11.0, "warm": 5.0}
    told = {v.what: (v.measured, v.met) for v in acceptance.verdicts(dataclasses.replace(report(), latency=found))}
    assert told["first call of `simulate, flow` against plain diffrax, processor time"] == ("2.00×", False)
    assert told["first call of `jax.grad of a flow` against plain diffrax, processor time"] == ("2.00×", True)
    assert told[f"{latency.README}, cold cache, processor time"] == ("11.0 s", True)
    assert told[f"{latency.README}, warm cache, processor time"] == ("5.0 s", False)
    assert told[f"{latency.MEASURED}, cold cache, processor time"] == ("3.0 s", True)
    text = page.first_calls(dataclasses.replace(report(), latency=found)).replace("\N{NO-BREAK SPACE}", " ")
    assert "| simulate, flow | 3 s | 2.00× | 1 s | 10 ms |" in text and "**not met**" in text
    assert told["programs that a later call of ours compiles"] == ("2 by exact, flow", False)
    assert all(v.met is None for v in acceptance.verdicts(report()) if v.what.startswith("first call"))
