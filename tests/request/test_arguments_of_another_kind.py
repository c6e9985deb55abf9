"""What is no number, no matrix, no key: refused where it is given, in words of this package."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import collapse, initial, losses

KEY, X, W, Y = jax.random.key(0), np.eye(5, 3) + 1, np.eye(2, 3), np.array([0, 0, 0, 1, 1])
LOGITS, STATS = np.ones((5, 2)), collapse.class_statistics(X, Y, 2)
MODEL = uj.unconstrained(uj.from_counts([3, 2]), dim=3)
VECTORS = ("etf_distance", "gnc2", "minimal_angle", "nc0", "nc2_equiangularity", "nc2_equinorm", "one_vs_rest_distance",
           "riesz_energy")  # fmt: skip
OF_STATS = "cdnv", "nc1", "nc1_trace_ratio", "ncc_accuracy", "seli_distance_means"
OF_W, OF_LOGITS = ("nc3_self_duality", "unc3", "seli_distance_prototypes"), ("accuracy", "margins", "nc4")
CALLS = {  # function, what it takes, and the arguments that are tried
    "class_statistics": (collapse.class_statistics, {"H": X, "labels": Y, "classes": 2}, "H labels classes"),
    **{name: (getattr(collapse, name), {"vectors": W}, "vectors") for name in VECTORS},
    **{name: (getattr(collapse, name), {"stats": STATS}, "stats") for name in OF_STATS},
    **{name: (getattr(collapse, name), {"stats": STATS, "W": W}, "stats W") for name in OF_W},
    **{name: (getattr(collapse, name), {"stats": STATS, "logits": LOGITS}, "stats logits") for name in OF_LOGITS},
    "nc5": (collapse.nc5, {"stats": STATS, "ood": X}, "stats ood"),
    "balanced_partner": (initial.balanced_partner, {"key": KEY, "part": W, "rows": 5, "kappa": 0.5},
                         "key part rows kappa"),
    "spectral_factors": (initial.spectral_factors, {"key": KEY, "matrix": X, "dim": 3, "depth": 3, "sizes": np.ones(3)},
                         "key matrix dim depth sizes"),
    "normal": (initial.normal, {"key": KEY, "shape": (2, 3)}, "key shape"),
    "data_loss": (MODEL.data_loss, {"H": X.astype("f"), "W": W.astype("f"), "b": np.zeros(2, "f")}, "H W b"),
    "runner_up_margins": (losses.runner_up_margins, {"logits": LOGITS}, ""),
    "adjusted_margin": (losses.adjusted_margin, {"features": X, "prototypes": W, "labels": Y, "gamma": 0.5,
                                                 "epsilon": 0.1, "bias": 0.0},
                        "features prototypes labels gamma epsilon bias"),
}  # fmt: skip
NONE, TEXT, LIST, DICT, CUBE = None, "a", ["a"], {}, np.ones((7, 7, 7))


def refused(function, arguments):
    with pytest.raises((ValueError, TypeError)) as error:
        function(**arguments)
    assert "unhinged_jax" in str(error.traceback[-1].path), error.value


@pytest.mark.parametrize("name", list(CALLS))
def test_an_argument_of_another_kind_is_refused_in_our_words(name):
    function, right, tried = CALLS[name]
    function(**right)
    for argument in tried.split():
        for wrong in (NONE, TEXT, LIST, DICT, CUBE):
            refused(function, {**right, argument: wrong})


@pytest.mark.parametrize(("call", "say"), [
    (lambda: MODEL.init(KEY, spectral="a"), "sizes must hold real numbers, but got 'a'"),
    (lambda: MODEL.init(KEY, balanced="a"), "balanced must be a real number, but got 'a'"),
    (lambda: initial.spectral_factors(KEY, np.full((3, 2), np.nan), 2, 2, 1.0), "matrix must hold finite numbers"),
    (lambda: initial.spectral_factors(KEY, np.ones((2, 3, 4)), 2, 2, 1.0), r"matrix must be .* got shape \(2, 3, 4\)"),
    (lambda: initial.balanced_partner(KEY, np.full((3, 2), np.nan), 5), "part must hold finite numbers"),
    (lambda: collapse.class_statistics(None, Y, 2), "features must hold real numbers, but got None"),
    (lambda: collapse.nc1(X), r"stats must be a ClassStatistics, but got an array .*; use `class_statistics\("),
    (lambda: collapse.nc1(STATS, rtol="a"), "rtol must be a real number, but got 'a'"),
    (lambda: losses.runner_up_margins(np.float64(1)), "logits must have shape"),
    (lambda: uj.exact(uj.LayerPeeled(MODEL.labels, None), uj.Flow(), None, [1]), "loss must be a Loss, but got None"),
    (lambda: uj.exact(MODEL, uj.Flow(memory=np.ones(3)), MODEL.init(KEY), [1]), "memory must be a PolyakAverage, "),
    (lambda: uj.sensitivity(MODEL, uj.Flow(), MODEL.init(KEY), [1.0], []), "observe must name what is to be diff"),
])  # fmt: skip
def test_what_is_wrong_is_named(call, say):
    with pytest.raises(ValueError, match=say):
        call()
