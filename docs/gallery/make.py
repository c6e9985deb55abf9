"""Make the gallery again: the thumbnails in this folder, and the page docs/gallery.md that shows them.

    python docs/gallery/make.py [NAME ...] [--kept]

runs the commands under the named pictures (default: all of them) in a temporary folder and shrinks what they draw. With
--kept no command is run where the documentation holds the picture at full size: it is shrunk from there. The page is
written in any case.
"""

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WIDE, MOST_BYTES = 800, 100_000


@dataclasses.dataclass(frozen=True)
class Picture:
    """One entry.

    Attributes:
        name: Of the thumbnail, without ending.
        title, caption: Above it and below it.
        commands: What makes it, run one after another; paths are relative to a copy of the repository.
        made: What they draw, relative to where they run.
        kept: The same picture at full size in docs/, if there is one.
        more: A page of docs/ that says more.
    """

    name: str
    title: str
    caption: str
    commands: tuple[str, ...]
    made: str
    kept: str = ""
    more: str = ""


def _figure(number: int, title: str, caption: str, kept: str = "") -> Picture:
    return Picture(
        f"figure-{number}", title, caption, (f"unhinged reproduce {number}",), f"figures/fig{number}.png", kept,
        "commands.md",
    )  # fmt: skip


def _theory(name: str, title: str, caption: str) -> Picture:
    return Picture(
        f"theory-{name}", title, caption, (f"unhinged theories {name}",), f"theories/{name}.png", "", "theories.md"
    )


def _sweep(plan: str, which: str, title: str, caption: str) -> Picture:
    commands = (f"unhinged sweep {plan} --store {plan}.zarr", f"unhinged plot {plan}.zarr")
    made = f"{plan}-pictures/{which}.png"
    return Picture(f"sweep-{plan}", title, caption, commands, made, f"sweeps/{plan}-{which}.png", "sweeps.md")


def _experiment(name: str, picture: str, title: str, caption: str) -> Picture:
    commands = (f"unhinged experiment {name}",)
    made = f"experiments/{name}/{picture}.png"
    return Picture(f"training-{name}", title, caption, commands, made, f"training/{name}/{picture}.png", "training.md")


CHAPTERS: dict[str, tuple[Picture, ...]] = {
    "The paper's figures": (
        _figure(
            1,
            "Unconstrained features and prototypes",
            "Simulated (dashes), exact (bands) and published (dots), over 50,000 updates and up to a loss of −10⁵⁴.",
            "figure-1.png",
        ),
        _figure(
            5,
            "Critical decay",
            "The decay at which growth stops, for five trade-offs γ: accuracy, directions and norms.",
        ),
        _figure(9, "Spherical features", "Normalised features, with the plain rate and with the rate times ‖h‖."),
    ),
    "One run": (
        Picture(
            "run",
            "A regularised flow",
            "One file gives every observable that it asks for.",
            ("unhinged simulate examples/regularized.toml --out run",),
            "run/curves.png",
            "",
            "cases.md",
        ),
        Picture(
            "design",
            "Chosen by gradient",
            "γ and λ for which the norm ends at 50, as near as possible to the limit, beside brute force over 8,405 "
            "points.",
            ("unhinged design norm --out norm",),
            "norm/path.png",
            "",
            "gradients.md",
        ),
    ),
    "Sweeps": (
        _sweep("phase", "map", "A phase diagram", "64 × 64 points of 16 seeds each. Both lines are theory, not fits."),
        _sweep(
            "noise",
            "map",
            "Label noise",
            "The symmetric noise that each trade-off γ tolerates, and the predicted line.",
        ),
        _sweep(
            "imbalance",
            "map",
            "Weights against imbalance",
            "Class weights n_c^(−exponent). Only with the exponent ½ are all classes told apart at any ratio and "
            "noise.",
        ),
        _sweep("schedules", "curves", "Schedules", "Cross-entropy under five schedules: medians and bands over seeds."),
    ),
    "Other theories": (
        _theory(
            "central-path",
            "MSE on the central path",
            "Singular values of the signal-to-noise ratio, closed form and flow. They become equal at the rate of a "
            "fourth root.",
        ),
        _theory(
            "log-time",
            "Cross-entropy and the maximal margin",
            "The flow runs through ten decades of time; nothing is fitted.",
        ),
        _theory(
            "minority-collapse",
            "Minority collapse",
            "Prototypes of rare classes become equal: under cross-entropy beyond a threshold, under the unhinged loss "
            "always.",
        ),
        _theory(
            "perils",
            "The perils of being unhinged",
            "Separable data on which the unhinged minimiser classifies only half correctly.",
        ),
    ),
    "Real networks": (
        _experiment("fig2", "accuracy", "Heads", "Test accuracy of seven heads on digits, mean and standard error."),
        _experiment(
            "weights",
            "accuracy",
            "Class weights",
            "The weights n_c^(−1/2), which theory singles out, and three others.",
        ),
        _experiment("ntk", "kernel", "The tangent kernel", "How well theory predicts a network, against its width."),
    ),
}
PICTURES = {picture.name: picture for chapter in CHAPTERS.values() for picture in chapter}

INTRODUCTION = """\
# Gallery

Bands are exact curves and thin dashes are simulated ones, wherever both are drawn. The colours can be
told apart with any common colour vision. Below each picture is the command that makes it, as PNG and
as SVG; `python docs/gallery/make.py` runs all commands and writes this page.

## Features on their way to their prototypes

[![Animation: features of four classes on a sphere on their way to four prototypes](gallery/sphere.svg)][sphere]

*Four classes in three dimensions, with the prototypes at a simplex ETF. [The page behind the
picture][sphere] shows the simulated flow beside the closed form tan(θ/2) = tan(θ₀/2)
exp(−κ ‖h‖^(q−2) ζ(t)). You can play it, drag the time, turn the sphere, and choose how the feature
norm rescales the rate. It is one file and needs no network.*

[sphere]: gallery/sphere.html

<!-- code: not run: docs/gallery/make.py runs it -->

```bash
python examples/sphere_animation.py docs/gallery
```
"""


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [INTRODUCTION]
    for chapter, pictures in CHAPTERS.items():
        parts.append(f"## {chapter}\n")
        for one in pictures:
            image = f"![{one.title}: {one.caption}](gallery/{one.name}.png)"
            more = f" [More]({one.more})" if one.more else ""
            commands = "\n".join(one.commands)
            parts.append(
                f"### {one.title}\n\n{f'[{image}]({one.kept})' if one.kept else image}\n\n*{one.caption}*{more}\n\n"
                f"<!-- code: not run: docs/gallery/make.py runs it -->\n\n```bash\n{commands}\n```\n"
            )
    return "\n".join(parts)


def run(picture: Picture, folder: Path) -> Path:
    """Run the commands of a picture in a folder that sees the examples; returns what they drew."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    python = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    for command in picture.commands:
        program, *arguments = shlex.split(command)
        assert program == "unhinged", command
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "unhinged_jax.cli", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": python},
        )  # fmt: skip
        print(f"{command}: {time.monotonic() - began:.0f} s", flush=True)
    return folder / picture.made


def shrink(source: Path, target: Path) -> None:
    """A thumbnail: as wide as a column of text, or less where that would take 100 kB."""
    from PIL import Image

    with Image.open(source) as image:
        full = image.convert("RGB")
    width = min(WIDE, full.width)
    while True:
        size = (width, round(full.height * width / full.width))
        small = full.resize(size, Image.Resampling.LANCZOS)
        # By coverage of the colours: by their frequency, as is usual, thin curves would take the colour of others.
        small = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        small.save(target, optimize=True)
        if target.stat().st_size < MOST_BYTES:
            return
        width = round(0.85 * width)


def main() -> None:
    """Parse the arguments, make the thumbnails, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sphere, {', '.join(PICTURES)}")
    parser.add_argument("--kept", action="store_true", help="shrink the pictures that docs/ holds; run only the others")
    asked = parser.parse_args()
    unknown = set(asked.names) - {"sphere", *PICTURES}
    if unknown:
        parser.error(f"there is no picture {min(unknown)!r}.")
    names = asked.names or ["sphere", *PICTURES]
    (HERE.parent / "gallery.md").write_text(page(), encoding="utf-8")
    if "sphere" in names:
        subprocess.run([sys.executable, ROOT / "examples" / "sphere_animation.py", HERE], check=True)
    for name in names:
        if name == "sphere":
            continue
        picture = PICTURES[name]
        if asked.kept and picture.kept:
            shrink(HERE.parent / picture.kept, HERE / f"{name}.png")
            continue
        with tempfile.TemporaryDirectory() as folder:
            shrink(run(picture, Path(folder)), HERE / f"{name}.png")


if __name__ == "__main__":
    main()
