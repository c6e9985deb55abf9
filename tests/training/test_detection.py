"""Calibration and detection metrics against scikit-learn, loops and cases worked by hand."""

import numpy as np
import pytest

from unhinged_jax.training import metrics


def cases():
    """Pairs of scores: separate, overlapping, with ties, tiny, constant."""
    draw = np.random.default_rng(3)
    yield draw.normal(1, 1, 300), draw.normal(0, 1, 500)
    yield draw.integers(0, 6, 200).astype(float), draw.integers(0, 5, 90).astype(float)
    yield draw.normal(5, 1, 40), draw.normal(-5, 1, 30)
    yield np.array([0.5]), np.array([0.5])
    yield np.ones(20), np.ones(7)
    yield draw.normal(0, 1, 20), draw.normal(0.5, 1, 1000)


@pytest.mark.parametrize(("inside", "outside"), list(cases()))
def test_detection_agrees_with_scikit_learn(inside, outside):
    sklearn = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    truth = np.concatenate([np.ones(inside.size), np.zeros(outside.size)])
    values = np.concatenate([inside, outside])
    assert metrics.auroc(inside, outside) == pytest.approx(sklearn.roc_auc_score(truth, values), abs=1e-12)
    assert metrics.aupr(inside, outside) == pytest.approx(sklearn.average_precision_score(truth, values), abs=1e-12)
    fpr, tpr, _ = sklearn.roc_curve(truth, values, drop_intermediate=False)
    assert metrics.fpr_at_tpr(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)], abs=1e-12)


@pytest.mark.parametrize(("inside", "outside"), list(cases()))
def test_detection_agrees_with_counting(inside, outside):
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert metrics.auroc(inside, outside) == pytest.approx(np.mean(pairs), abs=1e-12)
    for level in np.unique(inside)[::-1]:
        if np.sum(inside >= level) * 20 >= 19 * inside.size:
            assert metrics.fpr_at_tpr(inside, outside) == np.mean(outside >= level)
            break


def test_detection_worked_by_hand():
    # Thresholds 4, 3, 2, 1: precisions 1, 1/2, 2/3, 1/2 at recalls 1/2, 1/2, 1, 1.
    assert metrics.aupr([4.0, 2.0], [3.0, 1.0]) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3, abs=1e-15)
    assert metrics.auroc([4.0, 2.0], [3.0, 1.0]) == 0.75
    assert metrics.fpr_at_tpr([4.0, 2.0], [3.0, 1.0]) == 0.5
    # 19 of 20 are exactly 95 %, though 0.95 * 20 rounds up.
    inside = np.arange(20.0)
    assert metrics.fpr_at_tpr(inside, [0.5, 1.5]) == 0.5


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_agrees_with_a_loop_over_bins(bins):
    draw = np.random.default_rng(bins)
    p = draw.dirichlet(np.ones(4) * 0.4, size=400)
    y = draw.integers(0, 4, 400)
    total = 0.0
    for b in range(bins):
        chosen = [(q.max(), q.argmax() == label) for q, label in zip(p, y, strict=True)
                  if b / bins < q.max() <= (b + 1) / bins]  # fmt: skip
        if chosen:
            sure, right = np.mean(chosen, axis=0)
            total += len(chosen) / 400 * abs(right - sure)
    assert metrics.expected_calibration_error(p, y, bins) == pytest.approx(total, abs=1e-12)


def test_calibration_worked_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [1.0, 0.0]])
    found = metrics.reliability(p, [0, 1, 1, 0], bins=2)
    # All four lie in (1/2, 1]: mean confidence 0.85, accuracy 3/4.
    assert found.counts.tolist() == [0, 4]
    assert found.ece == pytest.approx(0.1, abs=1e-12)
    assert np.isnan(found.accuracy[0]) and found.accuracy[1] == 0.75
    # The edges belong to the bins below them.
    assert metrics.reliability([[0.5, 0.5]], [0], bins=2).counts.tolist() == [1, 0]


def test_scores_are_those_of_their_papers():
    draw = np.random.default_rng(0)
    logits, norms = draw.normal(size=(6, 3)), draw.uniform(1, 2, 6)
    found = metrics.scores(logits, norms)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["energy"], np.log(np.exp(logits).sum(axis=1)), rtol=1e-13)
    np.testing.assert_allclose(1 / (1 + np.exp(-found["softmax"])), p.max(axis=1), rtol=1e-13)
    assert np.array_equal(found["feature_norm"], norms)
    # Where probabilities round to 1 the score still tells two images apart.
    assert np.diff(metrics.scores([[100.0, 0.0], [200.0, 0.0]], [1.0, 1.0])["softmax"])[0] == pytest.approx(100)


def test_bad_scores_and_probabilities_are_refused():
    with pytest.raises(ValueError, match="scores outside must be"):
        metrics.auroc([1.0], [])
    with pytest.raises(ValueError, match="finite"):
        metrics.aupr([np.nan], [1.0])
    with pytest.raises(ValueError, match="tpr must lie"):
        metrics.fpr_at_tpr([1.0], [0.0], 0.0)
    with pytest.raises(ValueError, match="apply a softmax"):
        metrics.reliability([[2.0, 1.0]], [0])
    with pytest.raises(ValueError, match="n labels"):
        metrics.reliability([[0.5, 0.5]], [0, 1])
