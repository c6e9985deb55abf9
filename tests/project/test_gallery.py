"""The gallery: its page is what its script writes, its commands exist, thumbnails are small; the animation is right."""

import base64
import importlib.util
import json
import re
import shlex

import numpy as np
import pytest
from checkout import ROOT

from unhinged_jax.cli import app


def loaded(path):
    """A script as a module, without installing or running it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make():
    return loaded(ROOT / "docs" / "gallery" / "make.py")


@pytest.fixture(scope="module")
def animation():
    return loaded(ROOT / "examples" / "sphere_animation.py")


@pytest.fixture(scope="module")
def moving(animation):
    return animation.motion(per_class=2, frames=6)


def test_the_page_is_what_the_script_writes(make):
    assert (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8") == make.page()


def test_thumbnails_are_there_and_small(make):
    for name in make.PICTURES:
        size = (ROOT / "docs" / "gallery" / f"{name}.png").stat().st_size
        assert 3_000 < size < make.MOST_BYTES, name
    assert (ROOT / "docs" / "gallery" / "sphere.svg").stat().st_size < 100_000
    assert (ROOT / "docs" / "gallery" / "sphere.html").stat().st_size < 1_000_000


def test_every_command_is_one_that_is_shipped(make):
    for picture in make.PICTURES.values():
        for command in picture.commands:
            program, *arguments = shlex.split(command)
            assert program == "unhinged"
            app.parse_args(arguments, exit_on_error=False, print_error=False)  # raises for what it does not know


def test_thumbnails_shrink_until_they_are_small(make, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(make, "MOST_BYTES", 15_000)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "full.png")  # noise, which no format makes small
    make.shrink(tmp_path / "full.png", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size < make.MOST_BYTES
    with Image.open(tmp_path / "small.png") as image:
        assert abs(image.width / image.height - 16 / 9) < 0.02


def test_thin_curves_keep_their_colours(make, tmp_path):
    from PIL import Image, ImageColor

    from unhinged_jax.plots import PALETTE

    full = Image.new("RGB", (make.WIDE, 500), "white")
    full.paste(Image.linear_gradient("L").resize((make.WIDE, 380)), (0, 120))  # much of many other colours
    for row, colour in enumerate(PALETTE):
        full.paste(colour, (100, 10 + 15 * row, 400, 12 + 15 * row))
    full.save(tmp_path / "full.png")
    make.shrink(tmp_path / "full.png", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        small = image.convert("RGB")
    assert small.size == full.size and small.getpixel((5, 5)) == (255, 255, 255)
    for row, colour in enumerate(PALETTE):
        seen = np.asarray(small.getpixel((200, 10 + 15 * row)), int)
        assert np.abs(seen - ImageColor.getrgb(colour)).max() < 24


def test_features_follow_the_tangent_law(animation, moving):
    """Against the formula in NumPy, from the start alone."""
    start = moving.angles(moving.simulated[0, 0])
    for place, q in enumerate(animation.RESCALINGS):
        turned = np.multiply.outer(moving.pace, moving.lengths ** (q - 2.0))
        law = 2 * np.arctan(np.tan(start / 2) * np.exp(-turned))
        np.testing.assert_allclose(moving.angles(moving.exact[place]), law, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(moving.angles(moving.simulated[place]), law, rtol=1e-5, atol=1e-8)
    assert moving.pace[0] == 0 and moving.pace[-1] == pytest.approx(animation.EFOLDS)


def test_features_keep_to_their_great_circles(moving):
    target = moving.prototypes[moving.labels]
    normal = np.cross(moving.simulated[0, 0], target)
    assert np.max(np.abs(np.sum(moving.simulated * normal, axis=-1))) < 1e-9
    np.testing.assert_allclose(moving.prototypes @ moving.prototypes.T, (4 * np.eye(4) - 1) / 3, atol=1e-12)


def test_the_page_holds_the_run_and_needs_nothing_else(animation, moving):
    text = animation.page(moving)
    data = json.loads(re.search(r"^const data = (.*);$", text, re.M)[1])
    stored = np.frombuffer(base64.b64decode(data["simulated"]), "<i2") / 32767
    np.testing.assert_allclose(stored.reshape(moving.simulated.shape), moving.simulated, atol=2e-5)
    apart = np.linalg.norm(moving.simulated - moving.exact, axis=-1).max()
    assert np.max(data["apart"]) == pytest.approx(apart, rel=0.01)
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text.replace("http://www.w3.org/2000/svg", ""))
    assert "prefers-reduced-motion" in text and "prefers-color-scheme: dark" in text


def test_the_drawing_moves_every_feature(animation, moving):
    text = animation.drawing(moving)
    assert text.count("@keyframes") == moving.labels.size == text.count('<circle id="p')
    assert "prefers-reduced-motion:reduce" in text
