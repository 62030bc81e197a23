"""Says what a data set is like before anything is trained on it: events, rates, durations, what a grid leaves out.

    python3 scripts/show_data.py dataset=spiking_digits
    python3 scripts/show_data.py dataset=hdf5 dataset.train_path=my_spikes/train.h5 dataset.test_path=my_spikes/test.h5
    python3 scripts/show_data.py dataset=camera dataset.folder=mine dataset.height=128 dataset.width=128 --out mine.png

Overrides are those of an experiment (`Classification/dense_SNN.py`), so that one sees what it would train on.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from surgrad.config.jobs import jobs_of_command
from surgrad.datasets.report import report
from surgrad.errors import UserError
from surgrad.experiments.dataset_base import DatasetConfig
from surgrad.experiments.datasets import dataset_config
from surgrad.figures.data import overview
from surgrad.runs import files

SHOWN = 6  # classes in the figure


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Raises: UserError for data that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="as of an experiment, dataset=… first")
    parser.add_argument("--out", type=Path, default=Path("data.png"), help="the figure; default: data.png")
    options = parser.parse_args(arguments)
    (job,) = jobs_of_command(f"python3 Classification/dense_SNN.py {shlex.join(options.overrides)}")
    config: DatasetConfig = dataset_config(job.settings["dataset"])
    config.preflight()
    dt, nb_steps = config.time_step, config.nb_steps
    parts = dict(zip(("training", "validation", "test"), config.splits(), strict=True))
    rates = []
    for name, data in parts.items():
        if data is None:
            continue
        found = report(data, dt=dt, nb_steps=nb_steps)
        rates.append(found.rate)
        print(f"\n{name}")
        for what, value in found.lines(nb_steps, dt):
            print(f"  {what:<24}{value}")
    print(f"\ninitialisers assume dataset.nu={config.nu:g} Hz; measured in training: {rates[0]:.3g} Hz")
    train = parts["training"]
    assert train is not None
    found = report(train, dt=dt, nb_steps=nb_steps)
    first = [int(np.flatnonzero(train.labels == label)[0]) for label in np.unique(train.labels)[:SHOWN]]
    names = train.class_names or [f"class {k}" for k in range(train.nb_classes)]
    titles = [names[int(train.labels[k])] for k in first]
    figure = overview([train[k][:2] for k in first], titles, found.events, found.unit_rates, nb_steps * dt)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(options.out) as temporary:
        figure.savefig(temporary, format="png")
    print(f"figure: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
