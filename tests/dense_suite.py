"""What the tests of studies on the dense suite share: its script, and overrides that make it tiny."""

import importlib.util
import logging
import sys

from surgrad.runs.record import REPO

TINY = [
    "dataset=randman",
    "dataset.nb_classes=3",
    "dataset.nb_inputs=12",
    "dataset.nb_samples=20",
    "dataset.duration=0.04",
    "hidden=[6,5]",
    "batch_size=16",
    "nb_epochs=2",
    "monitor_samples=2",
    "wandb.mode=disabled",
    "device=cpu",
    "num_threads=1",
    "plot=false",
]


def run_dense(*arguments: str) -> None:
    """Classification/dense_SNN.py with these arguments; the loggers are left as they were."""
    spec = importlib.util.spec_from_file_location("dense_SNN", REPO / "Classification" / "dense_SNN.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        module.main(list(arguments))
    finally:
        root.handlers[:], root.level = handlers, level
