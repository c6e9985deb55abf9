"""What is printed and what a notebook shows: one line, and a page that loads nothing, for single things and batches."""

import html.parser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj

LABELS = uj.from_counts([30, 20, 10])
MODEL = uj.regularized(LABELS, 4, decay=1e-2)
STATE = MODEL.init(jax.random.key(0), precision="float64")
PRINTED = {
    "labels": LABELS,
    "soft labels": uj.soft(np.full((40, 3), 1 / 3)),
    "model": MODEL,
    "kernel": uj.ntk_invariant(uj.balanced(3, 20), 4, np.eye(60)).kernel,
    "state": STATE,
    "flow": uj.Flow(uj.cosine(0.5, 100.0)),
    "descent": uj.Descent(0.1, optimizer=optax.adam(1.0)),
    "schedule": uj.piecewise([0.5, 0.1], [10.0]),
    "function": uj.numeric(jnp.sqrt),
    "signal": MODEL.signal(),
    "parameter": uj.Parameter("H", np.ones((60, 4)), lambda problem, value: problem),
    "plan": uj.SweepPlan.read("phase"),
    "design": uj.DesignPlan.read("norm"),
    "collapse": uj.Collapse(3, 4),
    "event": uj.EventTime(1.0, True, 2.0, -1),
}


@pytest.mark.parametrize("name", PRINTED)
def test_everything_is_printed_in_one_line(name):
    text = repr(PRINTED[name])
    assert "\n" not in text and 5 < len(text) < 400 and " object at 0x" not in text, text


def test_a_line_says_what_something_is():
    assert repr(LABELS) == (
        "Labels(index=int32[60], weights=float64[60], targets=None, clean=None, classes=3, kind='hard', held_out=None)"
    )
    assert repr(STATE) == "State(H=float64[60, 4], W=float64[3, 4], b=float64[3], log_scale=0.0)"
    assert repr(uj.constant(0.1)) == "Constant(value=0.1)"
    assert repr(PRINTED["plan"]).endswith(": 65,536 points over gamma (64), decay (64), seed (16))")
    told = []
    jax.jit(lambda state: told.append((repr(state), state._repr_html_())))(MODEL.init(jax.random.key(0)))
    assert told == [("State(H=float32[60, 4], W=float32[3, 4], b=float32[3], log_scale=float32[])", None)]


class Cells(html.parser.HTMLParser):
    """The text of every cell of a page, row by row."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert tag in ("div", "b", "table", "thead", "tbody", "tr", "td", "th") and not attributes
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")

    def handle_data(self, text):
        if self.inside:
            self.rows[-1].append(text)


def rows(thing):
    return {row[0]: row[1:] for row in Cells(thing._repr_html_()).rows}


def test_pages_hold_the_numbers():
    seen = rows(LABELS.symmetric_noise(0.5, jax.random.key(0)))
    assert seen["samples"] == ["60"] and seen["classes"] == ["3"] and seen["not the clean label"][0].endswith("%")
    assert rows(LABELS)["samples per class"] == ["10 to 30"]
    assert rows(MODEL)["decay_H"] == ["0.01"] and rows(MODEL)["loss"] == ["Unhinged(gamma=None)"]
    norm = np.sqrt(sum(float(x) ** 2 for x in np.asarray(STATE.H).ravel()))
    assert rows(STATE)["H"] == [f"float64[60, 4], norm {norm:.6g}"]
    found = uj.limit(MODEL, uj.Flow(), STATE)
    assert rows(found)["rate"] == [f"{float(found.rate):.6g}"] and rows(found)["both"] == [found.side]
    run = uj.exact(MODEL, uj.Flow(), STATE, [1.0, 2.0], "norm")
    assert rows(uj.verify(run, run))["norm"] == ["0.00e+00"]
    measured = uj.measure(np.asarray(STATE.H), np.asarray(LABELS.index))
    assert set(measured.values) < {*rows(measured)}


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3)], ids=str)
def test_pages_of_batches_hold_their_ranges(shape):
    def one(key):
        state = MODEL.init(key)
        return state, uj.limit(MODEL, uj.Flow(), state), LABELS.symmetric_noise(0.3, key)

    for _ in shape:
        one = jax.vmap(one)
    states, limits, labels = one(jax.random.split(jax.random.key(0), shape))
    norms = np.sqrt(np.sum(np.asarray(states.W, float) ** 2, axis=(-2, -1)))
    assert rows(states)["W"] == [f"float32{[*shape, 3, 4]}, norm {norms.min():.6g} to {norms.max():.6g}"]
    assert rows(limits)["batch of shape"] == [str(shape)] and "rate" in rows(limits)
    assert rows(labels)["batch of shape"] == [str(shape)] and rows(labels)["samples"] == ["60"]
    assert all("\n" not in repr(each) for each in (states, labels, limits))
