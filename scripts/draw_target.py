"""Draw a target of our own: a pyramidal cell with its dendrites, 120 neurons by 250 steps.

python scripts/draw_target.py [--out neuron.png] [--height 120] [--width 250] [--seed 3]
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from surgrad.datasets.sources.targets import write_spike_image

FOLDER = Path(__file__).resolve().parents[1] / "Spike_train_matching" / "dataset"


def line(image: np.ndarray, start: tuple[float, float], end: tuple[float, float], width: float) -> None:
    """Blacken what lies within width / 2 of the line between two points (x, y), in pixels."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    image[np.hypot(x - start[0] - along * dx, y - start[1] - along * dy) <= width / 2] = 1


def branch(
    image: np.ndarray, start: tuple[float, float], angle: float, length: float, width: float, generator: Any
) -> None:
    """A dendrite that forks until it is thin: angle in radians, length and width in pixels."""
    if length < 5 or width < 0.6:
        return
    end = (start[0] + length * math.cos(angle), start[1] + length * math.sin(angle))
    line(image, start, end, width)
    for side in (-1, 1):
        turn = side * generator.uniform(0.25, 0.6)
        branch(image, end, angle + turn, length * generator.uniform(0.68, 0.88), width * 0.75, generator)


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """The picture, (height, width) of 0/1."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width), np.uint8)
    soma = (0.36 * width, 0.5 * height)
    y, x = np.mgrid[:height, :width]
    image[((x - soma[0]) / (0.045 * width)) ** 2 + ((y - soma[1]) / (0.09 * height)) ** 2 <= 1] = 1
    trunk = (0.58 * width, 0.5 * height)
    line(image, soma, trunk, 4)
    branch(image, trunk, -0.35, 0.13 * width, 3, generator)
    branch(image, trunk, 0.35, 0.13 * width, 3, generator)
    for angle in (2.2, 2.75, -2.75, -2.2):
        branch(image, soma, angle, 0.11 * width, 2.6, generator)
    line(image, soma, (0.01 * width, 0.5 * height), 1.5)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "neuron.png")
    parser.add_argument("--height", type=int, default=120, help="neurons")
    parser.add_argument("--width", type=int, default=250, help="steps")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    image = draw(args.height, args.width, args.seed)
    write_spike_image(args.out, image.T)
    print(f"{args.out}: {args.height} neurons, {args.width} steps, {image.mean():.3f} spikes per step")


if __name__ == "__main__":
    main()
