"""Data sets by their configuration: splits, sizes, and what is said of mistakes."""

import numpy as np
import pytest

from surgrad.errors import UserError
from surgrad.experiments.datasets import dataset_config
from surgrad.runs.record import REPO

GRID = {"time_step": 1e-3, "duration": 0.1}
CODE = {"_target_": "surgrad.datasets.latency.ChargingLatency"}
FASHION = {
    "name": "fashion_mnist",
    "folder": str(REPO / "data" / "fashion_mnist"),
    "subset": True,
    "code": CODE,
    **GRID,
}
LIF = {"_target_": "surgrad.datasets.lif_encoding.LIFEncoding", "dt": 2e-3}
CROSSING = {"_target_": "surgrad.datasets.threshold_crossing.ThresholdCrossing", "dt": 2e-3, "threshold": 0.5}
BRAILLE = {"name": "braille", "path": str(REPO / "data" / "braille" / "braille.npz"), "encoding": LIF, **GRID}
RANDOM = {"name": "random", "nu": 5, **GRID}


def splits(content, **changes):
    return dataset_config(content | changes).splits()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_validate_on_a_share_of_the_training_images(name):
    train, valid, test = splits(FASHION, name=name, folder=str(REPO / "data" / name), validation_split=0.8)
    assert (len(train), len(valid), len(test)) == (1600, 400, 500)
    assert set(train.ids).isdisjoint(valid.ids)
    assert (train.nb_units, train.nb_classes, train.name) == (784, 10, name)
    assert valid.binned(1e-3, 100).dropped == 0
    assert splits(FASHION, validation="none")[1] is None


def test_stratified_images_keep_their_classes_balanced():
    train, valid, _ = splits(FASHION, stratified=True)
    assert np.bincount(train.labels).tolist() == [180] * 10
    assert np.bincount(valid.labels).tolist() == [20] * 10


@pytest.mark.parametrize(("encoding", "nb_units"), [(LIF, 128), (CROSSING, 8)])
def test_braille_is_split_into_three(encoding, nb_units):
    train, valid, test = splits(BRAILLE, encoding=encoding)
    assert (len(train), len(valid), len(test)) == (972, 108, 270)
    assert set(train.ids) | set(valid.ids) | set(test.ids) == set(range(1350))
    assert (train.nb_units, test.nb_classes) == (nb_units, 27)
    other = splits(BRAILLE, encoding=encoding, split_seed=2)[2]
    assert set(other.ids) != set(test.ids)


def test_test_recordings_do_not_set_the_scale(monkeypatch):
    """The training spikes stay what they are when the recordings that test are changed."""
    from surgrad.experiments import datasets

    before = splits(BRAILLE)
    honest = datasets.read_braille

    def louder(*arguments):
        recordings = honest(*arguments)
        recordings.signals[before[2].ids] += 0.1
        return recordings

    monkeypatch.setattr(datasets, "read_braille", louder)
    after = splits(BRAILLE)
    np.testing.assert_array_equal(before[0].times, after[0].times)
    assert before[2].nb_events != after[2].nb_events


def test_the_random_task_has_nothing_to_validate_on():
    train, valid, test = splits(RANDOM)
    assert valid is None
    assert len(train) == len(test) == 256
    assert not np.array_equal(train.labels, test.labels)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (FASHION | {"folder": "/nowhere"}, "download_data.py fashion_mnist"),
        (FASHION | {"subset": False}, "download_data.py fashion_mnist"),
        (FASHION | {"nb_inputs": 700}, "dataset.nb_inputs=700: fashion_mnist has 784"),
        (FASHION | {"nb_classes": 9}, "dataset.nb_classes=9: fashion_mnist has 10"),
        (FASHION | {"code": CODE | {"tau": 0}}, "dataset.code.*tau=0"),
        (FASHION | {"code": {}}, "dataset.code"),
        (FASHION | {"validation": "speaker"}, "dataset.validation=speaker"),
        (FASHION | {"validation_split": 1.0}, "dataset.validation_split=1.0"),
        (FASHION | {"treshold": 0.1}, "dataset.treshold"),
        (BRAILLE | {"path": "/nowhere.npz"}, "/nowhere.npz"),
        (BRAILLE | {"encoding": {}}, "dataset.encoding"),
        (BRAILLE | {"encoding": LIF | {"dt": -1}}, "dataset.encoding"),
        (BRAILLE | {"encoding": LIF | {"copis": 2}}, "dataset.encoding.copis"),
        (BRAILLE | {"test_split": 0}, "dataset.test_split=0"),
        (BRAILLE | {"taxels": [12]}, "taxels=.12."),
        (RANDOM | {"nb_samples": 0}, "nb_samples=0"),
        (RANDOM | {"nu": 2000}, "dataset.nu=2000.0 Hz: more than one spike per step"),
    ],
)
def test_mistakes_are_named_in_one_line(content, says, tmp_path):
    if content.get("subset") is False:
        content = content | {"folder": str(tmp_path)}
    with pytest.raises(UserError, match=says) as error:
        splits(content)
    assert "\n" not in str(error.value)
