"""The Braille recordings: what the embedded file holds, and damage."""

import numpy as np
import pytest

from surgrad.datasets.encoding.threshold_crossing import ThresholdCrossing
from surgrad.datasets.sources.braille import encoded, read_braille
from surgrad.errors import UserError
from surgrad.runs.record import REPO

PATH = REPO / "data" / "braille" / "braille.npz"


@pytest.fixture(scope="module")
def arrays():
    with np.load(PATH) as file:
        return dict(file)


def test_the_embedded_recordings_are_complete():
    recordings = read_braille(PATH)
    assert recordings.signals.shape == (1350, 76, 4)
    assert np.bincount(recordings.labels).tolist() == [50] * 27
    assert recordings.letters == ("Space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert 0 <= recordings.signals.min() < recordings.signals.max() <= 1


def test_exactly_the_kept_taxels_move():
    moves = read_braille(PATH, tuple(range(12))).signals.std((0, 1)) > 0
    assert np.flatnonzero(moves).tolist() == [1, 2, 6, 10]


def test_a_recording_is_that_of_the_file(arrays):
    first = arrays["offsets"][700]
    expected = 1 - arrays["taxels"][first : first + 76, [6, 1]] / 255
    np.testing.assert_allclose(read_braille(PATH, (6, 1)).signals[700], expected)


def test_standardized_by_other_recordings():
    recordings = read_braille(PATH)
    part = recordings.subset(np.arange(0, 1350, 3))
    own = part.standardized(like=part).signals
    np.testing.assert_allclose(own.mean((0, 1)), 0, atol=1e-9)
    raw = part.signals.std((0, 1))
    np.testing.assert_allclose(own.std((0, 1)), raw / (raw + 1e-3))
    assert abs(recordings.standardized(like=part).signals.mean((0, 1))).max() > 1e-6


def test_encoded_recordings_keep_their_labels():
    recordings = read_braille(PATH).subset(np.array([3, 900, 40]))
    dataset = encoded(recordings, ThresholdCrossing(0.02, 2e-3), 8, "letters")
    assert (len(dataset), dataset.nb_units, dataset.nb_classes, dataset.name) == (3, 8, 27, "letters")
    assert dataset.labels.tolist() == recordings.labels.tolist()
    assert dataset.nb_events > 0
    assert dataset.duration <= 75 * 2e-3


DAMAGE = {
    "offsets": (lambda a: a["offsets"] + 1, "do not fit together"),
    "label": (lambda a: a["label"] + np.uint8(1), "do not fit together"),
    "taxels": (lambda a: a["taxels"].ravel(), "taxels has 1 axes, wanted 2"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit_are_named(arrays, tmp_path, name):
    change, message = DAMAGE[name]
    np.savez(tmp_path / "b.npz", **(arrays | {name: change(arrays)}))
    with pytest.raises(UserError, match=message):
        read_braille(tmp_path / "b.npz")


def test_other_files_and_missing_ones_are_named(tmp_path, arrays):
    with pytest.raises(UserError, match="there is no such file"):
        read_braille(tmp_path / "b.npz")
    for content in (b"", b"PK\x03\x04 cut", PATH.read_bytes()[:5000]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError, match="not the Braille recordings") as error:
            read_braille(tmp_path / "b.npz")
        assert "\n" not in str(error.value)
    np.savez(tmp_path / "b.npz", taxels=arrays["taxels"])
    with pytest.raises(UserError, match=r"not the Braille recordings.*offsets"):
        read_braille(tmp_path / "b.npz")


def test_taxels_that_are_not_there():
    with pytest.raises(UserError, match="allowed are 0 to 11"):
        read_braille(PATH, (1, 12))
