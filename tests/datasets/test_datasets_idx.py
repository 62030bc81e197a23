"""The idx reader: every type, damage of every kind, the embedded extracts and the script that draws them."""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from surgrad.datasets.sources.idx import CHECKSUMS, CLASSES, FILES, Images, balanced, read_idx, read_images, write_idx
from surgrad.errors import UserError

REPO = Path(__file__).resolve().parents[2]
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(code, array):
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_is_read_in_native_order(tmp_path, code, shape, packed):
    array = np.random.default_rng(0).integers(-100, 100, shape).astype(TYPES[code])
    content = idx(code, array)
    (tmp_path / "a").write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(tmp_path / "a")
    assert found.dtype == np.dtype(TYPES[code]).newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_written_bytes_depend_on_the_array_alone(tmp_path, name):
    array = np.random.default_rng(1).integers(0, 256, (5, 4, 3), np.uint8)
    write_idx(tmp_path / "one" / name, array)
    write_idx(tmp_path / "two" / name, array)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    np.testing.assert_array_equal(read_idx(tmp_path / "one" / name), array)
    assert [p.name for p in (tmp_path / "one").iterdir()] == [name]


def test_only_bytes_are_written(tmp_path):
    with pytest.raises(UserError, match="int64, wanted uint8"):
        write_idx(tmp_path / "a", np.zeros(3, np.int64))
    assert list(tmp_path.iterdir()) == []


WHOLE = idx(0x08, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
DAMAGE = {
    "nothing": (b"", "not an idx file, it starts with nothing"),
    "text": (b"<html>404</html>", "not an idx file, it starts with 3c 68 74 6d"),
    "type": (b"\0\0\x07\x01" + WHOLE[4:], "not an idx file, it starts with 00 00 07 01"),
    "header": (WHOLE[:10], "ends within its header"),
    "short": (WHOLE[:-1], "needs 24 bytes, there are 23"),
    "long": (WHOLE + b"x", "needs 24 bytes, there are 25"),
    "shape": (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "needs 79228162458924105385300197375 bytes"),
    "gzip": (gzip.compress(WHOLE)[:-9], "damaged gzip file"),
    "deflate": (gzip.compress(WHOLE)[:12] + b"\xff" * 30, "damaged gzip file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_in_one_line(tmp_path, kind):
    content, message = DAMAGE[kind]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_idx(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_idx(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(tmp_path)


def test_the_checksum_is_that_of_the_uncompressed_content(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(WHOLE))
    assert read_idx(tmp_path / "a.gz", sha256=hashlib.sha256(WHOLE).hexdigest()).shape == (2, 3, 4)
    with pytest.raises(UserError, match=f"sha256 is {hashlib.sha256(WHOLE).hexdigest()}, expected abc"):
        read_idx(tmp_path / "a.gz", sha256="abc")


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_the_embedded_extract_is_balanced(name):
    train, test = read_images(REPO / "data" / name, name, subset=True)
    for images, per_class in ((train, 200), (test, 50)):
        assert images.pixels.shape == (10 * per_class, 28, 28)
        assert images.pixels.dtype == np.uint8
        assert np.bincount(images.labels).tolist() == [per_class] * len(CLASSES[name])
        assert 0.1 < (images.pixels > 0).mean() < 0.6  # pictures: ink on an empty ground
    assert not {p.tobytes() for p in train.pixels} & {p.tobytes() for p in test.pixels}


def make_folder(folder, nb_train=20, nb_test=10):
    """Small files under the published names; returns them as (train, test)."""
    rng = np.random.default_rng(2)
    parts = []
    for files, number in zip(FILES.values(), (nb_train, nb_test), strict=True):
        parts.append(Images(rng.integers(0, 256, (number, 5, 5), np.uint8), np.arange(number) % 10))
        for file, array in zip(files, parts[-1], strict=True):
            write_idx(folder / f"{file}.gz", array.astype(np.uint8))
    return parts


def test_published_files_are_held_to_their_checksums(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(UserError, match="expected ba891046e6505d7a"):
        read_images(tmp_path, "mnist")


def test_a_plain_file_is_taken_before_a_gzipped_one(tmp_path):
    train, _ = make_folder(tmp_path / "subset")
    write_idx(tmp_path / "subset" / "train-images-idx3-ubyte", train.pixels[::-1].copy())
    found, _ = read_images(tmp_path, "mnist", subset=True)
    np.testing.assert_array_equal(found.pixels, train.pixels[::-1])


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_missing_files_name_the_command_and_the_extract(tmp_path, name):
    with pytest.raises(UserError, match=f"scripts/download_data.py {name}`.*subset=true") as error:
        read_images(tmp_path, name)
    assert "train-images-idx3-ubyte" in str(error.value)
    assert "\n" not in str(error.value)


WRONG = {
    "name": (lambda train: None, "cifar", "mnist, fashion_mnist only"),
    "images": (lambda train: ("train-images-idx3-ubyte", train.labels), "mnist", r"wanted uint8 \(N, height, width\)"),
    "number": (lambda train: ("train-labels-idx1-ubyte", train.labels[1:]), "mnist", r"\(19,\) for 20 images"),
    "label": (lambda train: ("train-labels-idx1-ubyte", train.labels + 1), "mnist", "label 10, allowed are 0 to 9"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_that_do_not_fit_together(tmp_path, kind):
    change, name, message = WRONG[kind]
    train, _ = make_folder(tmp_path / "subset")
    if changed := change(train):
        write_idx(tmp_path / "subset" / changed[0], changed[1].astype(np.uint8))
    with pytest.raises(UserError, match=message):
        read_images(tmp_path, name, subset=True)


def test_balanced_takes_the_first_of_every_class_in_order():
    labels = np.array([1, 0, 1, 1, 0, 0, 1])
    drawn = balanced(Images(np.arange(7, dtype=np.uint8).reshape(7, 1, 1), labels), 2)
    assert drawn.pixels.ravel().tolist() == [0, 1, 2, 4]
    assert drawn.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(UserError, match="only 3 images of class 0"):
        balanced(Images(np.zeros((7, 1, 1), np.uint8), labels), 4)


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("draw_image_subset", REPO / "scripts" / "draw_image_subset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_an_extract_that_is_read_back(script, tmp_path, monkeypatch, capsys):
    train, test = make_folder(tmp_path)
    monkeypatch.setitem(CHECKSUMS, "mnist", {})
    command = ["mnist", str(tmp_path), "--train", "2", "--test", "1"]
    assert script.main(command) == 0
    for found, whole in zip(read_images(tmp_path, "mnist", subset=True), (train, test), strict=True):
        np.testing.assert_array_equal(found.pixels, whole.pixels[: len(found.pixels)])  # labels run 0..9 here
    assert [len(part.labels) for part in read_images(tmp_path, "mnist", subset=True)] == [20, 10]
    assert script.main([*command[:2], "--train", "3"]) == 1
    assert "per_class=3" in capsys.readouterr().err
