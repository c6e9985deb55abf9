"""Features on the unit sphere moving to their prototypes, simulated beside exact: a page that plays it, and a drawing.

    python examples/sphere_animation.py [FOLDER]

writes sphere.html (one file, works offline) and sphere.svg (animated, for where a page cannot be shown). Prototypes
stand at a simplex ETF, in three dimensions a tetrahedron; the loss is unhinged. What the closed form says of the angle
between a feature and its target is Theorem 7 of Zhou et al. 2023, tan(theta/2) = tan(theta_0/2) exp(-kappa zeta), here
with features of any length and with a rate rescaled by ||h||^q.
"""

import base64
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

import unhinged_jax as uj
from unhinged_jax.plots import PALETTE

CLASSES, RISE, HORIZON = 4, 4.0, 10.0
RESCALINGS = (0, 1, 2)
EFOLDS = 5.0  # by which the tangent of half the angle of a feature of length 1 has shrunk at the end
PAGE = Path(__file__).with_suffix(".html")


@dataclasses.dataclass(frozen=True)
class Motion:
    """Unit features over time, one run for each q in `RESCALINGS`.

    Attributes:
        times: (T,).
        labels: Class of each feature, (n,).
        lengths: ||h_i||, which the flow keeps, (n,).
        prototypes: Unit prototypes, (C, 3).
        simulated, exact: Unit features, (q, T, n, 3).
        pace: kappa zeta(t) of a feature of length 1, (T,).
    """

    times: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    prototypes: np.ndarray
    simulated: np.ndarray
    exact: np.ndarray
    pace: np.ndarray

    def angles(self, features: np.ndarray) -> np.ndarray:
        """Angle between each feature and its prototype, (q, T, n); right for small ones, too."""
        target = self.prototypes[self.labels]
        across = np.linalg.norm(np.cross(features, target), axis=-1)
        return np.arctan2(across, np.sum(features * target, axis=-1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors over their lengths."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def motion(per_class: int = 9, frames: int = 101, seed: int = 3) -> Motion:
    """Run it: an integrated flow and the closed form of the same start, under a rate that rises, then falls."""
    labels = uj.balanced(CLASSES, per_class)
    key_direction, key_length, key_order = jax.random.split(jax.random.key(seed), 3)
    count = CLASSES * per_class
    directions = unit(np.asarray(jax.random.normal(key_direction, (count, 3)), float))
    # Lengths from a half to two, evenly in the logarithm, given out at random.
    lengths = np.asarray(jax.random.permutation(key_length, np.geomspace(0.5, 2.0, count)), float)
    times = np.linspace(0, HORIZON, frames)
    simulated, exact = [], []
    for q in RESCALINGS:
        model = uj.spherical(labels, dim=3, rescale=q)
        state = model.init(key_order, features=lengths[:, None] * directions, prototypes="etf", precision="float64")
        # kappa is ||(M W)_i|| = (1/n) ||(1 + gamma) w_y - gamma sum_c w_c||, and the prototypes of an ETF sum to 0.
        pull = CLASSES / (CLASSES - 1) * np.linalg.norm(state.W[0]) / count
        # A linear rise and half a wave down: the integral of each is half of peak times its length.
        peak = 2 * EFOLDS / (pull * HORIZON)
        schedule = uj.warmup(RISE, uj.cosine(peak, horizon=HORIZON - RISE))
        flow = uj.Flow(schedule, rtol=1e-10, atol=1e-12)
        for solve, kept in ((uj.simulate, simulated), (uj.exact, exact)):
            run = solve(model, flow, state, times, "accuracy", states=True)
            assert run.states is not None
            kept.append(unit(np.asarray(run.states.H, float)))
    rising, falling = np.minimum(times, RISE), np.maximum(times - RISE, 0) / (HORIZON - RISE)
    pace = pull * peak * (rising**2 / (2 * RISE) + (HORIZON - RISE) * (falling + np.sin(np.pi * falling) / np.pi) / 2)
    return Motion(
        times, np.asarray(labels.index), lengths, unit(np.asarray(state.W, float)), np.stack(simulated),
        np.stack(exact), pace,
    )  # fmt: skip


def packed(values: np.ndarray) -> str:
    """Coordinates between -1 and 1 as 16-bit numbers in base64: exact to 2e-5, which no screen shows."""
    return base64.b64encode(np.round(values * 32767).astype("<i2").tobytes()).decode()


def page(moving: Motion) -> str:
    """The HTML page, with its data inside."""
    apart = np.max(np.linalg.norm(moving.simulated - moving.exact, axis=-1), axis=-1)  # (q, T), before rounding
    data = {
        "rescalings": RESCALINGS,
        "times": moving.times.round(6).tolist(),
        "labels": moving.labels.tolist(),
        "lengths": moving.lengths.round(4).tolist(),
        "prototypes": moving.prototypes.round(6).tolist(),
        "simulated": packed(moving.simulated),
        "exact": packed(moving.exact),
        "apart": [[float(f"{value:.2e}") for value in row] for row in apart],
        # The angles themselves, as tenths of their logarithm: coordinates of 16 bits do not hold small ones.
        "log_angles": [
            packed(np.log10(np.maximum(moving.angles(which), 1e-9)) / 10) for which in (moving.simulated, moving.exact)
        ],
    }
    return PAGE.read_text(encoding="utf-8").replace("/* DATA */ null", json.dumps(data, separators=(",", ":")))


def seen_from(points: np.ndarray, yaw: float = 0.5, pitch: float = 0.35) -> np.ndarray:
    """Points turned so that the viewer looks along the third axis; it points to the viewer."""
    c, s, k, m = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    side, depth = c * x - s * y, s * x + c * y
    return np.stack([side, k * z + m * depth, k * depth - m * z], axis=-1)


def drawing(moving: Motion, q: int = 1, size: int = 420, stops: int = 24, seconds: float = 8.0) -> str:
    """An animated SVG of one run; it stands still at the end for a viewer who asked for less motion."""
    half, radius = size / 2, 0.44 * size
    at = np.unique(np.round(np.linspace(0, len(moving.times) - 1, stops + 1)).astype(int))
    shown = seen_from(moving.simulated[RESCALINGS.index(q)])
    rules, bodies, trails = [], [], []

    def place(point: np.ndarray) -> tuple[float, float]:
        return round(half + radius * float(point[0]), 1), round(half - radius * float(point[1]), 1)

    for i, label in enumerate(moving.labels):
        colour, path = PALETTE[label], shown[:, i]
        steps = []
        for step in at:
            x, y = place(path[step])
            alpha = 1 if path[step, 2] >= 0 else 0.35
            # The last fifth of the cycle shows the end.
            steps.append(f"{80 * step / at[-1]:.3g}%{{transform:translate({x}px,{y}px);opacity:{alpha}}}")
        x, y = place(path[-1])
        rules.append(f"@keyframes p{i}{{{''.join(steps)}}}")
        rules.append(f"#p{i}{{animation-name:p{i};transform:translate({x}px,{y}px)}}")
        bodies.append(f'<circle id="p{i}" r="{2.2 + 2 * moving.lengths[i]:.1f}" fill="{colour}"/>')
        line = " ".join(f"{a},{b}" for a, b in (place(path[step]) for step in at))
        trails.append(f'<polyline points="{line}" stroke="{colour}"/>')
    anchors = []
    for label, point in enumerate(seen_from(moving.prototypes)):
        x, y = place(point)
        alpha = 1 if point[2] >= 0 else 0.4
        anchors.append(
            f'<path d="M{x} {y - 11}l11 11l-11 11l-11-11z" fill="#fff" stroke="{PALETTE[label]}" stroke-width="3" '
            f'opacity="{alpha}"/>'
        )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}">
<title>Features of four classes on the unit sphere moving to their prototypes (diamonds), which stand still</title>
<style>circle[id]{{animation:{seconds}s linear infinite;stroke:#fff;stroke-width:.8}}
{"".join(rules)}
@media(prefers-reduced-motion:reduce){{circle[id]{{animation:none}}}}</style>
<rect width="{size}" height="{size}" fill="#fff"/>
<circle cx="{half}" cy="{half}" r="{radius}" fill="#f4f6f8" stroke="#9aa4ae"/>
{meridians(half, radius)}
<g fill="none" stroke-width="1" opacity=".35">{"".join(trails)}</g>
{"".join(anchors)}
{"".join(bodies)}
</svg>
"""


def meridians(half: float, radius: float) -> str:
    """Parallels and meridians, those behind fainter."""
    turn = np.linspace(0, 2 * np.pi, 97)
    lines = [np.stack([np.cos(b) * np.cos(turn), np.cos(b) * np.sin(turn), np.full_like(turn, np.sin(b))], -1)
             for b in np.radians([-60, -30, 0, 30, 60])]  # fmt: skip
    lines += [np.stack([np.cos(turn) * np.cos(a), np.cos(turn) * np.sin(a), np.sin(turn)], -1)
              for a in np.radians(np.arange(0, 180, 30))]  # fmt: skip
    front, back = [], []
    for line in lines:
        seen = seen_from(line)[::2]
        x, y = half + radius * seen[:, 0], half - radius * seen[:, 1]
        for k in range(1, len(seen)):
            piece = f"M{x[k - 1]:.0f} {y[k - 1]:.0f}L{x[k]:.0f} {y[k]:.0f}"
            (front if seen[k - 1, 2] + seen[k, 2] >= 0 else back).append(piece)
    return "".join(
        f'<path d="{"".join(pieces)}" fill="none" stroke="#b8c0c8" stroke-width=".6" opacity="{alpha}"/>'
        for pieces, alpha in ((back, 0.35), (front, 0.9))
    )


def main(folder: Path = Path(".")) -> list[Path]:
    """Write sphere.html and sphere.svg."""
    moving = motion()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (("sphere.html", page(moving)), ("sphere.svg", drawing(moving))):
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    worst = np.max(np.linalg.norm(moving.simulated - moving.exact, axis=-1))
    print(f"largest distance of simulated from exact: {worst:.1e}; {', '.join(map(str, written))}")
    return written


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("."))
