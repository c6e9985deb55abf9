"""What a run asks to be cited."""

import re

import jax
import pytest

import unhinged_jax as uj
from unhinged_jax.references import citation

PAPER, DIFFRAX, OPTAX = "zhou2023unhinged", "kidger2021on", "deepmind2020jax"
DIFFUSION = ["li2017stochastic", "li2019stochastic"]


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def model() -> uj.LayerPeeled:
    return uj.unconstrained(uj.balanced(classes=3, per_class=2), dim=4)


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (None, [PAPER, DIFFRAX, OPTAX]),
        (uj.Flow(), [PAPER, DIFFRAX]),
        (uj.Descent(), [PAPER, OPTAX]),
        (uj.Diffusion(batch=1), [PAPER, *DIFFUSION]),
        (uj.Descent(sam_radius=0.1), [PAPER, OPTAX, "foret2021sharpness"]),
    ],
)
def test_dynamics_name_their_library(used, expected):
    assert keys(citation(used)) == expected


def test_trajectories_name_what_computed_them(model):
    state, times = model.init(jax.random.key(0)), [0, 1]
    descended = uj.simulate(model, uj.Descent(0.1), state, times, observe="norm")
    flowed = uj.simulate(model, uj.Flow(0.1), state, times, observe="norm")
    solved = uj.exact(model, uj.Flow(0.1), state, times, observe="norm")
    diffused = uj.simulate(model, uj.Diffusion(0.1, batch=1), state, times, observe="norm", key=jax.random.key(0))
    assert keys(citation(diffused)) == [PAPER, *DIFFUSION]
    assert keys(citation(descended)) == [PAPER, OPTAX]
    assert keys(citation(flowed)) == [PAPER, DIFFRAX]
    assert keys(citation(solved)) == [PAPER]
    assert keys(citation(model)) == [PAPER]


def test_braces_balance_and_the_paper_is_identified():
    text = citation()
    assert text.count("{") == text.count("}")
    paper = ("On the Dynamics Under the Unhinged Loss and Beyond", "{24}", "{376}", "{1--62}", "{2023}")
    assert all(part in text for part in paper)


def test_anything_else_is_refused_in_words():
    with pytest.raises(TypeError, match="give a Trajectory, a Flow"):
        citation("Flow")  # type: ignore[arg-type]
