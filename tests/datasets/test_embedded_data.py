"""The data that ship with the repository are those that were put there."""

import hashlib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DATA = REPO / "data"
SUMS = dict(reversed(line.split("  ")) for line in (DATA / "SHA256SUMS").read_text().splitlines())
FOLDERS = (
    "braille",
    "fashion_mnist/subset",
    "mnist/subset",
    "pretrained",
    "spiking_digits",
    "spoken_commands",
    "yin_yang",
)


@pytest.mark.parametrize("name", sorted(SUMS))
def test_every_file_is_the_one_that_was_recorded(name):
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == SUMS[name]


def test_every_embedded_file_is_recorded():
    files = (path for folder in FOLDERS for path in (DATA / folder).rglob("*") if path.is_file())
    documents = {"README.md", "LICENSE", "SHA256SUMS"}
    assert {path.relative_to(DATA).as_posix() for path in files if path.name not in documents} == set(SUMS)


def test_embedded_data_stay_small():
    assert sum((DATA / name).stat().st_size for name in SUMS) < 40 * 2**20
