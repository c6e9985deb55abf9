"""Networks trained in PyTorch, flax and equinox, measured beside NumPy and followed from where they are."""

import importlib.util

import numpy as np
import oracles
import pytest
from checkout import ROOT

import unhinged_jax as uj


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_network", ROOT / "examples" / "own_network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.parametrize(("framework", "package"), [("pytorch", "torch"), ("flax", "flax"), ("equinox", "equinox")])
def test_a_trained_network_is_measured_and_followed_from_where_it_is(example, framework, package):
    pytest.importorskip(package, reason=f"{framework} is not installed")
    arrays = getattr(example, f"in_{framework}")()
    H, W, b, ood = (np.asarray(arrays[name], np.float64) for name in ("features", "prototypes", "bias", "ood"))
    labels = np.asarray(arrays["labels"])
    assert H.shape == (240, 6) and W.shape == (4, 6) and ood.shape == (60, 6)
    assert H.min() == ood.min() == 0  # what enters the last layer comes from a ReLU

    found, later, simulated, solved = example.follow(**arrays)
    want = oracles.collapse_metrics(H, labels, W, b) | oracles.beyond_metrics(H, labels, W, ood)
    assert found.left_out == {} and {*found.values} == {*want}
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert found["accuracy"] > 0.98 and found["nc1"] < 0.3 and found["nc3_self_duality"] < 1  # it has learned

    for run in (later, simulated, solved):
        assert int(run.result) == uj.RunResult.COMPLETED
        for name in ("accuracy", "nc1", "etf_distance_means", "nc3_self_duality"):
            np.testing.assert_allclose(run[name][0], found[name], rtol=1e-9, atol=1e-12, err_msg=name)
            np.testing.assert_allclose(simulated[name], solved[name], rtol=1e-5, atol=1e-9, err_msg=name)
    assert solved["nc1"][-1] < found["nc1"] / 100 and later["nc1"][-1] < found["nc1"]
