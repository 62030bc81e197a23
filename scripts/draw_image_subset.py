"""Draws the balanced extract of MNIST or Fashion-MNIST that ships with the repository.

    python3 scripts/draw_image_subset.py mnist data/mnist

The folder holds the published files (scripts/download_data.py fetches them); the first images of every class, in the
order of the files, go into its folder subset/.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from surgrad.datasets.sources.idx import CHECKSUMS, FILES, balanced, read_images, write_idx
from surgrad.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Writes the extract that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(CHECKSUMS))
    parser.add_argument("folder", type=Path, help="holds the published files")
    parser.add_argument("--dest", type=Path, help="folder of the extract (default: <folder>/subset)")
    parser.add_argument("--train", type=int, default=200, help="training images of each class")
    parser.add_argument("--test", type=int, default=50, help="test images of each class")
    options = parser.parse_args(arguments)
    folder = options.dest or options.folder / "subset"
    try:
        parts = read_images(options.folder, options.name)
        for images, files, per_class in zip(parts, FILES.values(), (options.train, options.test), strict=True):
            drawn = balanced(images, per_class)
            for file, array in zip(files, (drawn.pixels, drawn.labels.astype(np.uint8)), strict=True):
                write_idx(folder / f"{file}.gz", array)
                print(f"{folder / file}.gz: {array.shape}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
