"""`measure` and `Collapse` beside loops in NumPy, and what must leave or move their numbers."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pandas
import pytest

import unhinged_jax as uj
from unhinged_jax.collapse import MEASURED, METRICS, one_vs_rest_distance
from unhinged_jax.measurement import evaluate

C, P = 5, 9
COUNTS = (70, 40, 10, 60, 50)
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(C), COUNTS))
OOD = np.random.default_rng(8).normal(size=(30, P)) + np.arange(P)
OF_SAMPLES = {"nc4", "ncc_accuracy", "accuracy", "margin_min", "margin_mean"}


def data(seed=0, labels=LABELS):
    rng = np.random.default_rng(seed)
    means, W = 2 * rng.normal(size=(C, P)) + 3, rng.normal(size=(C, P))
    return means[labels] + 2 * rng.normal(size=(labels.size, P)), W, rng.normal(size=C)


H, W, B = data()
WHOLE = uj.measure(H, LABELS, W, B, ood=OOD)


def assert_close(got, want, rtol=1e-12, only=None):
    for name in only or want.values:
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=rtol, err_msg=name)


def test_every_metric_beside_loops_over_samples_and_pairs():
    want = oracles.collapse_metrics(H, LABELS, W, B) | oracles.beyond_metrics(H, LABELS, W, OOD)
    assert {*WHOLE.values} == {*MEASURED} == {*want} and WHOLE.left_out == {}
    assert 0 < want["nc4"] < 1 and 0 < want["accuracy"] < 1 and 0 < want["ncc_accuracy"] < 1
    for name, value in want.items():
        np.testing.assert_allclose(WHOLE[name], value, rtol=1e-12, atol=1e-13, err_msg=name)
    assert (WHOLE.samples, WHOLE.classes, WHOLE.dim) == (LABELS.size, C, P)


def test_without_prototypes_what_needs_them_is_left_out_and_named():
    found = uj.measure(H, LABELS, ood=OOD)
    needs = {name for name, info in MEASURED.items() if not {"W", "logits"}.isdisjoint(info.takes)}
    assert {*found.left_out} == needs and {*found.values} == {*MEASURED} - needs
    assert {*found.left_out.values()} == {"no prototypes were given"}
    assert_close(found, WHOLE, 1e-14, only=found.values)
    told = f"Left out, because no prototypes were given: {', '.join(found.left_out)}."
    assert " ".join(repr(found).split()).endswith(told) and max(map(len, repr(found).splitlines())) <= 100
    with pytest.raises(KeyError, match="nc4 was left out: no prototypes were given"):
        found["nc4"]


def test_without_features_from_outside_nc5_is_left_out_and_nothing_else_changes():
    found = uj.measure(H, LABELS, W, B)
    no = "no features from outside the training distribution were given (ood)"
    assert found.left_out == {"nc5": no} == uj.measure(H, LABELS, W, B, ood=OOD[:0]).left_out
    assert found.values == {name: value for name, value in WHOLE.values.items() if name != "nc5"}
    assert repr(found).endswith(f"Left out, because {no}: nc5.")


def test_of_features_from_outside_only_the_direction_of_their_mean_counts():
    turned = OOD[np.random.default_rng(0).permutation(len(OOD))]
    for ood in (turned, 1e-200 * OOD, 1e200 * OOD, OOD.mean(axis=0)[None], np.tile(OOD, (3, 1)), -OOD):
        np.testing.assert_allclose(uj.measure(H, LABELS, ood=ood)["nc5"], WHOLE["nc5"], rtol=1e-13)
    assert uj.measure(H, LABELS, ood=0 * OOD)["nc5"] == 0
    means = [H[c == LABELS].mean(axis=0) for c in range(C)]
    apart = np.linalg.qr(np.stack([*means, OOD[0]], axis=1))[0][:, -1:].T
    assert uj.measure(H, LABELS, ood=apart)["nc5"] < 1e-14  # orthogonal to every class mean: the ideal


@pytest.mark.parametrize(("classes", "dim"), [(4, 1), (2, 1), (7, 2), (6, 3), (8, 4), (6, 5)])
def test_distances_from_hulls_beside_every_face(classes, dim):
    V = np.random.default_rng(classes).normal(size=(classes, dim))
    unit = V / np.linalg.norm(V, axis=1)[:, None]
    want = min(oracles.from_hull(unit[c], np.delete(unit, c, axis=0)) for c in range(classes))
    assert one_vs_rest_distance(V) == pytest.approx(want, abs=1e-12)
    assert one_vs_rest_distance(3 * V[::-1]) == pytest.approx(want, abs=1e-12)


def test_distances_from_hulls_of_the_best_arrangements():
    angle = 2 * np.pi * np.arange(7) / 7
    for V in (
        np.eye(6) - 1 / 6, np.stack([np.cos(angle), np.sin(angle)], axis=1), np.vstack([np.eye(4), -np.eye(4)]),
        np.array([[1.0], [-2.0]]), np.array([[1.0], [-2.0], [1.0]]),
    ):  # fmt: skip
        for name in ("one_vs_rest_means", "one_vs_rest_prototypes"):
            best = MEASURED[name].ideal(*V.shape if V.shape[0] != 6 else (6, 5))
            assert one_vs_rest_distance(V) == pytest.approx(best, abs=1e-12)
    assert math.isnan(MEASURED["one_vs_rest_means"].ideal(9, 4))
    with pytest.raises(ValueError, match="needs known numbers"):
        jax.jit(one_vs_rest_distance)(np.eye(3))


def test_distances_from_hulls_of_very_many_classes_are_left_out(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_FOR_HULLS", C - 1)
    found = uj.measure(H, LABELS, W, B, ood=OOD)
    assert {*found.left_out} == {"one_vs_rest_means", "one_vs_rest_prototypes"}
    assert "it takes minutes for more than 1,000 classes" in {*found.left_out.values()}


def test_biases_matter_to_logits_only():
    found = uj.measure(H, LABELS, W)
    want = oracles.collapse_metrics(H, LABELS, W, np.zeros(C))
    for name in METRICS:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-12, atol=1e-13, err_msg=name)
    assert found["margin_mean"] != WHOLE["margin_mean"]


@pytest.mark.parametrize("limit", [1, 7, 64])
def test_tiles_change_nothing(monkeypatch, limit):
    monkeypatch.setattr(evaluate, "_ROWS", limit)
    sizes = [len(H[rows]) for rows in evaluate.tiles(H, C)]
    assert sum(sizes) == len(H) and max(sizes) <= limit
    if limit > 1:
        assert_close(uj.measure(H, LABELS, W, B, ood=OOD), WHOLE)


def test_no_tile_is_large():
    wide = np.broadcast_to(0.0, (100, 2**20))
    assert max(rows.stop - rows.start for rows in evaluate.tiles(wide, 2)) == 2
    many = np.broadcast_to(0.0, (2**15, 3))
    assert max(rows.stop - rows.start for rows in evaluate.tiles(many, 2**12)) == 2**9


# --- what must leave the metrics, or move them in a known way -----------------------------------------------


def test_invariances():
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(P, P)))[0]
    order, rename = rng.permutation(len(H)), rng.permutation(C)
    old = np.argsort(rename)
    assert_close(uj.measure(H @ turn, LABELS, W @ turn, B, ood=OOD @ turn), WHOLE)
    assert_close(uj.measure(H[order], LABELS[order], W, B, ood=OOD), WHOLE)
    assert_close(uj.measure(H, rename[LABELS], W[old], B[old], ood=OOD), WHOLE)
    assert_close(uj.measure(np.tile(H, (2, 1)), np.tile(LABELS, 2), W, B, ood=OOD), WHOLE)
    shift = rng.normal(size=P)
    moved = uj.measure(H + shift, LABELS, W, B - W @ shift)
    assert_close(moved, WHOLE, only=moved.values)  # NC5 depends on the origin


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 3e7, 1e100, 1e200])
def test_scales_of_features_and_prototypes(scale):
    plain = uj.measure(H, LABELS, W)
    for found in (uj.measure(scale * H, LABELS, W), uj.measure(H, LABELS, scale * W)):
        assert_close(found, plain, only=[name for name in METRICS if not name.startswith("margin")])
        for name in ("margin_min", "margin_mean"):
            np.testing.assert_allclose(found[name] / scale, plain[name], rtol=1e-12)
    seen = uj.Collapse(C, P).update(scale * H[:50], LABELS[:50]).update(scale * H[50:], LABELS[50:])
    streamed = seen.metrics(scale * W)
    assert_close(streamed, plain, only=streamed.values)


def test_exact_collapse_has_ideal_values():
    labels = np.arange(20) % C
    simplex = np.eye(C) - 1 / C
    found = uj.measure(1.7 * simplex[labels] + 4, labels, 0.3 * simplex)
    for name, ideal in found.ideals.items():
        if math.isfinite(ideal):
            np.testing.assert_allclose(found[name], ideal, atol=1e-14, err_msg=name)
    assert found["nc1"] == found["cdnv"] == 0
    streamed = uj.Collapse(C, C).update(1.7 * simplex[labels] + 4, labels).metrics()
    assert streamed["nc1"] == streamed["cdnv"] == 0


def test_all_features_on_one_point_and_zeros():
    for features in (np.full((20, P), 1 / 3), np.zeros((20, P))):
        labels = np.arange(20) % C
        seen = uj.Collapse(C, P).update(features[:10], labels[:10]).update(features[10:], labels[10:])
        for found in (uj.measure(features, labels, 0 * W), seen.metrics(0 * W)):
            assert found["nc1"] == found["nc1_trace_ratio"] == found["cdnv"] == found["nc0"] == math.inf
            assert not any(math.isnan(value) for value in found.values.values())


def test_more_classes_than_fit_into_the_dimensions():
    features, prototypes = H[:, :2], W[:, :2]
    found = uj.measure(features, LABELS, prototypes, B)
    want = oracles.collapse_metrics(features, LABELS, prototypes, B)
    for name in METRICS:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-11, atol=1e-13, err_msg=name)
    assert "\nA simplex of 5 classes needs 4 dimensions, so ideal" in repr(found) and "needs" not in repr(WHOLE)
    assert math.isnan(found.ideals["seli_distance_means"]) and found.ideals["minimal_angle_means"] == 2 * math.pi / 5
    seen = uj.Collapse(C, 2).update(features, LABELS).metrics(prototypes)
    assert_close(seen, found, 1e-11, only=seen.values)


# --- kinds of numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float16", ">f8", "jax", "list", "frame", "bfloat16"])
def test_every_type_of_number_is_measured_in_float64(kind):
    given = {
        "jax": lambda x: jnp.asarray(x, jnp.float32), "list": np.ndarray.tolist, "frame": pandas.DataFrame,
        "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    }.get(kind, lambda x: x.astype(kind))  # fmt: skip
    features, prototypes = given(H), given(W)
    want = uj.measure(np.asarray(features, np.float64), LABELS, np.asarray(prototypes, np.float64))
    assert uj.measure(features, LABELS.astype(np.uint8), prototypes) == want
    np.testing.assert_allclose(want["nc1"], WHOLE["nc1"], rtol=0.02)


def test_labels_of_the_library_and_of_jax():
    assert uj.measure(H, uj.from_labels(LABELS), W, B, ood=OOD) == WHOLE
    for labels in (jnp.asarray(LABELS), LABELS.tolist()):
        assert uj.measure(H, labels, W, B, ood=OOD.tolist()) == WHOLE


class Tensor:
    """As much of a PyTorch tensor as NumPy and `measure` see: its graph must be left before NumPy may look."""

    def __init__(self, numbers, kind="torch.float32", attached=True):
        self.numbers, self.dtype, self.attached = np.asarray(numbers), kind, attached

    def detach(self):
        return Tensor(self.numbers, self.dtype, attached=False)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.numbers.astype(np.float32), "torch.float32", self.attached)

    def __array__(self, dtype=None, copy=None):
        if self.attached or self.dtype == "torch.bfloat16":
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.numbers


def test_tensors_that_require_gradients_or_have_16_bits():
    assert uj.measure(Tensor(H), Tensor(LABELS), Tensor(W), Tensor(B), ood=Tensor(OOD)) == WHOLE
    rounded = uj.measure(H.astype(np.float32), LABELS, W)
    assert uj.measure(Tensor(H, "torch.bfloat16"), LABELS, Tensor(W)) == rounded


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    features = torch.tensor(H, requires_grad=True)
    prototypes, ood = torch.nn.Parameter(torch.tensor(W)), torch.tensor(OOD)
    assert uj.measure(features, torch.tensor(LABELS), prototypes, torch.tensor(B), ood=ood) == WHOLE
    rounded = features.bfloat16()
    assert uj.measure(rounded, LABELS) == uj.measure(rounded.detach().double().numpy(), LABELS)


# --- refusals -----------------------------------------------------------------------------------------------

NAN = np.where(np.arange(P) == 3, np.nan, H)
REFUSED = {
    "NaN": (lambda: uj.measure(NAN, LABELS), "features must hold finite numbers, but 230 of its 2070 entries"),
    "a masked array": (lambda: uj.measure(np.ma.masked_array(H, H > 9), LABELS), "features is a masked array"),
    "complex numbers": (lambda: uj.measure(H + 0j, LABELS), "features must hold real numbers"),
    "text": (lambda: uj.measure("features.npz", LABELS), "features must hold real numbers, but got 'features.npz'"),
    "nothing": (lambda: uj.measure(None, LABELS), "features must hold real numbers, but got None"),
    "images": (lambda: uj.measure(np.ones((230, 3, 3)), LABELS), r"but got \(230, 3, 3\); reshape each sample"),
    "no samples": (lambda: uj.measure(np.ones((0, 3)), []), "features must hold samples and dimensions"),
    "too few labels": (lambda: uj.measure(H, LABELS[1:]), r"labels must have shape \(230,\), .* but got \(229,\)"),
    "one-hot labels": (lambda: uj.measure(H, np.eye(C, dtype=int)[LABELS]), r"as in labels.argmax\(axis=1\)"),
    "fractions": (lambda: uj.measure(H, LABELS + 0.5), "labels must be integers"),
    "names": (lambda: uj.measure(H, ["cat"] * 230), "labels must be integers"),
    "ignored samples": (lambda: uj.measure(H, np.where(LABELS == 4, -100, LABELS)), "the smallest is -100"),
    "labels beyond": (lambda: uj.measure(H, LABELS, W[:4]), r"labels must hold labels in 0 ... 3 for 4 classes"),
    "labels far beyond": (lambda: uj.measure(H, 10**8 * LABELS), r"399999996 of 400000001 have none \(1, 2, 3, ...\)"),
    "an empty class": (lambda: uj.measure(H, np.where(LABELS == 2, 0, LABELS), W), r"but 1 of 5 have none \(2\)"),
    "the last class": (lambda: uj.measure(H, LABELS, np.ones((6, P))), r"but 1 of 6 have none \(5\)"),
    "one class": (lambda: uj.measure(H, 0 * LABELS), "at least 2 are needed"),
    "transposed": (lambda: uj.measure(H, LABELS, W.T), r"shape \(C, 9\), but got \(9, 5\); give their transpose"),
    "more prototypes": (lambda: uj.measure(H, uj.from_labels(LABELS), W[:4]), r"must have shape \(5, 9\)"),
    "a bias alone": (lambda: uj.measure(H, LABELS, bias=B), "without prototypes"),
    "narrow features from outside": (lambda: uj.measure(H, LABELS, ood=OOD[:, 1:]), r"\(m, 9\), .* but got \(30, 8\)"),
    "one sample from outside": (lambda: uj.Collapse(C, P).update_ood(OOD[0]), r"\(m, 9\), one row of features per"),
    "nothing from outside": (lambda: uj.Collapse(C, P).update_ood(None), "ood must hold real numbers, but got None"),
    "NaN from outside": (lambda: uj.measure(H, LABELS, ood=NAN), "ood must hold finite numbers"),
    "another bias": (lambda: uj.measure(H, LABELS, W, B[:4]), r"bias must have shape \(5,\)"),
    "a traced array": (lambda: jax.jit(lambda x: uj.measure(x, LABELS).samples)(H), "features must hold known numbers"),
    "traced labels": (lambda: jax.jit(lambda y: uj.measure(H, y).samples)(LABELS), "labels must hold known numbers"),
    "one class to stream": (lambda: uj.Collapse(1, P), "classes must be a whole number of at least 2"),
    "no dimension": (lambda: uj.Collapse(C, 0), "dim must be a whole number of at least 1"),
    "a wide batch": (lambda: uj.Collapse(C, 8).update(H, LABELS), r"features must have 8 columns"),
    "a label of a batch": (lambda: uj.Collapse(4, P).update(H, LABELS), r"in 0 ... 3 for 4 classes"),
    "nothing streamed": (lambda: uj.Collapse(C, P).metrics(), r"but 5 of 5 have none \(0, 1, 2, ...\)"),
    "classes to come": (lambda: uj.Collapse(9, P).update(H, LABELS).metrics(), r"but 4 of 9 have none \(5, 6, 7,"),
    "another scale": (
        lambda: uj.Collapse(C, P).update(H, LABELS).update(1e200 * H, LABELS), "divide all of them by one number"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_a_sentence(what):
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message) as refused:
        call()
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300


@pytest.mark.parametrize("around", [jax.jit, jax.grad])
def test_known_numbers_are_measured_while_something_else_is_traced(around):
    def value(x):
        return x * uj.measure(H, LABELS, W)["nc1"] * uj.Collapse(C, P).update(H, LABELS).metrics(W)["cdnv"]

    np.testing.assert_allclose(around(value)(1.0), WHOLE["nc1"] * WHOLE["cdnv"], rtol=1e-6)


# --- batches ------------------------------------------------------------------------------------------------


def streamed(order, edges):
    seen = uj.Collapse(C, P)
    for rows in np.split(order, edges):
        seen = seen.update(H[rows], LABELS[rows]).update_ood(OOD[rows[rows < len(OOD)]])
    for rows in np.split(order[::-1], edges[:3]):
        seen = seen.classify(H[rows], LABELS[rows], W, B)
    return seen.metrics()


@pytest.mark.parametrize("seed", range(4))
def test_batches_in_any_order_and_division_equal_the_whole(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(H)) if seed else np.argsort(LABELS)  # one class after the other
    edges = np.sort(rng.choice(len(H) + 1, size=[6, 20, 100, 229][seed], replace=False))
    found = streamed(order, edges)
    assert found.left_out == {}
    assert_close(found, WHOLE)


def test_one_pass_gives_all_but_what_needs_each_sample_again():
    seen = uj.Collapse(C, P).update(H, LABELS).update_ood(OOD)
    found = seen.metrics(W, B)
    assert {*found.left_out} == OF_SAMPLES
    assert {*found.left_out.values()} == {"it needs every sample again, with `classify`"}
    assert_close(found, WHOLE, only=found.values)
    bare = seen.metrics()
    assert bare.left_out["ncc_accuracy"].startswith("it needs") and bare.left_out["nc4"] == "no prototypes were given"
    near = seen.classify(H, LABELS).metrics()
    assert near["ncc_accuracy"] == WHOLE["ncc_accuracy"] and "nc4" in near.left_out


def test_a_common_offset_and_a_small_spread_keep_their_digits():
    """Raw sums of squares would lose 1e-8 beside 1e4 altogether."""
    rng = np.random.default_rng(5)
    means, spread = rng.integers(-8, 8, size=(C, P)), rng.integers(-8, 8, size=(230, P)) * 2.0**-24
    features = means[LABELS] + spread + 2.0**13
    want = oracles.collapse_metrics(means[LABELS] + spread, LABELS, W, B)
    seen = uj.Collapse(C, P)
    for rows in np.split(np.arange(230), 23):
        seen = seen.update(features[rows], LABELS[rows])
    for found in (uj.measure(features, LABELS, W), seen.metrics(W)):
        for name in ("nc1", "nc1_trace_ratio", "cdnv"):
            np.testing.assert_allclose(found[name], want[name], rtol=1e-11, err_msg=name)


def test_an_accumulator_is_not_changed_by_what_is_made_of_it():
    first = uj.Collapse(C, P).update(H, LABELS)
    before = first.metrics(W)
    second = first.update(H + 1, LABELS)
    second.classify(H, LABELS)
    assert first.metrics(W) == before != second.metrics(W)
    assert (first.samples, second.samples) == (230, 460)
    assert first.update(H[:0], LABELS[:0]).metrics(W) == before
    assert repr(first) == "Collapse(classes=5, dim=9): 230 samples"


def test_second_passes_must_be_complete_and_of_one_classifier():
    seen = uj.Collapse(C, P).update(H, LABELS)
    half = seen.classify(H[:100], LABELS[:100], W, B)
    for call, message in (
        (half.metrics, "only 100 of 230 samples were passed to `classify`"),
        (lambda: half.update(H, LABELS), "the class means would change after `classify`"),
        (lambda: half.classify(H, LABELS, W, 2 * B), "give the same every time"),
        (lambda: half.classify(H[100:], LABELS[100:]), "give the same every time"),
        (lambda: half.classify(H, LABELS, W, B), "330 samples were classified, but there were 230"),
        (lambda: half.classify(H[100:], LABELS[100:], W, B).metrics(2 * W), "not the prototypes and biases"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert_close(half.classify(H[100:], LABELS[100:], W, B).update_ood(OOD).metrics(W, B), WHOLE)


def test_a_scatter_that_does_not_fit_is_refused():
    with pytest.raises(MemoryError, match="the scatter of features of dimension 10000000 would need"):
        uj.Collapse(2, 10**7)
    for call in (
        lambda: uj.Collapse(2_000_000, 1),
        lambda: uj.measure(np.zeros((2_000_000, 1)), np.arange(2_000_000)),
    ):
        with pytest.raises(MemoryError, match="the angles between 2000000 classes would need 128 TB"):
            call()


# --- what is printed and written ----------------------------------------------------------------------------


def test_the_table_is_aligned_and_complete():
    lines = repr(WHOLE).splitlines()
    assert lines[0] == "Neural collapse of 230 samples, 5 classes, 9 dimensions" and len(lines) == 2 + len(MEASURED)
    column = lines[1].index("meaning")
    for line, (name, info) in zip(lines[2:], MEASURED.items(), strict=True):
        assert line.split()[0] == name and line[column:] == info.meaning and line[column - 2 : column] == "  "
    assert f"{WHOLE['nc1']:.5g}" in lines[3] and lines[2 + [*MEASURED].index("margin_mean")].split()[2] == "∞"


def test_frames_csv_and_json_hold_every_digit(tmp_path):
    frame = WHOLE.to_dataframe()
    assert list(frame.columns) == ["value", "ideal", "meaning", "reference"] and list(frame.index) == [*MEASURED]
    assert frame["value"].to_dict() == WHOLE.values and frame["ideal"].to_dict() == WHOLE.ideals
    WHOLE.to_csv(tmp_path / "metrics.csv")
    back = pandas.read_csv(tmp_path / "metrics.csv", index_col="metric")
    pandas.testing.assert_frame_equal(back, frame, check_exact=True)
    with pytest.raises(ValueError, match="is there already"):
        WHOLE.to_csv(tmp_path / "metrics.csv", force=False)
    text = WHOLE.to_json(tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").read_text() == text + "\n"
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert {name: entry["value"] for name, entry in record["metrics"].items()} == WHOLE.values
    assert record["metrics"]["margin_min"]["ideal"] is None and record["metrics"]["nc4"]["ideal"] == 1
    assert (record["samples"], record["classes"], record["dim"], record["left_out"]) == (230, 5, 9, {})


def test_unknown_metrics_are_named_with_a_guess():
    with pytest.raises(KeyError, match="did you mean 'nc3_self_duality'"):
        WHOLE["NC3"]


def test_papers_are_cited():
    text = uj.citation(WHOLE)
    assert all(f"{{{info.key}," in text for info in MEASURED.values())
    assert "zhao2026optimizer" not in uj.citation(uj.measure(H, LABELS))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.long
def test_fifty_thousand_features_take_less_than_700_megabytes():
    import subprocess

    # Not ru_maxrss, which a process inherits from the one that started it.
    code = """
        import re
        import numpy as np, unhinged_jax as uj
        uj.measure
        rng, n, p, C = np.random.default_rng(0), 50_000, 512, 100
        labels, W = rng.integers(0, C, n), rng.normal(size=(C, p))
        H = np.empty((n, p), np.float32)
        for k in range(0, n, 5000):
            H[k:k + 5000] = 0.3 * W[labels[k:k + 5000]] + rng.normal(size=(5000, p))
        uj.measure(H, labels, W, np.zeros(C))
        print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    """
    import textwrap

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700e3
