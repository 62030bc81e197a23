"""What --help shows: the keys of a suite, and those of the data set that is chosen."""

import dataclasses

import pytest

from surgrad.config.help import help_text
from surgrad.config.hydra_setup import CONFIGS
from surgrad.experiments.classification import config
from surgrad.experiments.dense.config import DenseConfig


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([], ["Keys of dataset=spiking_digits", "dataset.limit=18", "dataset.train_speakers=null"]),
        (["--help", "dataset=nmnist"], ["Keys of dataset=nmnist", "dataset.height=", "dataset.augment.time_stretch=0"]),
    ],
)
def test_keys_of_the_chosen_data_set_are_shown_with_those_of_the_suite(given, shown):
    text = help_text(config, config.ClassificationConfig, [CONFIGS / "classification", CONFIGS / "shared"], given)
    assert all(key in text for key in shown)
    assert all(f"  dataset.{field.name}" in text for field in dataclasses.fields(config.ConvDatasetConfig)[:3])
    assert "dataset.pool_kind=max" in text


def test_a_choice_that_is_none_is_left_to_the_composition():
    text = help_text(config, DenseConfig, [CONFIGS / "dense", CONFIGS / "shared"], ["dataset=nothing"])
    assert "Keys of dataset" not in text
    assert "nb_epochs" in text
