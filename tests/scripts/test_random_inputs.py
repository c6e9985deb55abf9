"""A few of the random inputs of `random_inputs.py`, which `.ci/full` runs in full, and what it takes for a miss."""

import jax.numpy as jnp
import pytest
from scripts import random_inputs

import unhinged_jax as uj


@pytest.mark.parametrize("kind", ["configuration", "call"])
def test_random_inputs_are_refused_in_a_sentence_or_right(kind):
    found = [random_inputs.judged(kind, number, seed=0) for number in range(15)]
    assert [verdict for verdict in found if verdict.missed] == []
    assert "refused" in {verdict.outcome for verdict in found}


def broken(*_):
    raise IndexError("out of range")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: uj.Flow(rtol=2.0), ""),
        (lambda: jnp.zeros(2) + jnp.zeros(3), "in"),
        (lambda: int("x"), "ValueError in"),
        (broken, "IndexError in"),
    ],
)
def test_what_is_no_refusal_is_told_apart(error, said):
    with pytest.raises(Exception) as raised:
        error()
    why = random_inputs.refusal(raised.value)
    assert (why == "") == (said == "") and said in why
