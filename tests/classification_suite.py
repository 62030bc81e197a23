"""What the tests of the Classification suite share: its script as a module, and overrides that make it tiny."""

import importlib.util
import sys

from surgrad.runs import REPO

SCRIPT = REPO / "Classification" / "deep_convSNN.py"

TINY_DATA = ["dataset=randman", "dataset.nb_classes=3", "dataset.nb_inputs=12", "dataset.nb_samples=20"]
TINY_NETWORK = [
    "dataset.nb_hidden_layers=2",
    "dataset.nb_filters=[4,4]",
    "dataset.kernel_size=[3,3]",
    "dataset.stride=[2,1]",
    "dataset.padding=[0,0]",
    "dataset.duration=0.04",
]
TINY = [
    *TINY_DATA,
    *TINY_NETWORK,
    "batch_size=16",
    "nb_epochs=2",
    "fano.repeats=5",
    "plotting.nb_samples=2",
    "test_draws=2",
    "wandb.mode=disabled",
    "device=cpu",
    "num_threads=1",
]


def load_script():
    """Classification/deep_convSNN.py as a module; its `main` takes a list of overrides."""
    spec = importlib.util.spec_from_file_location("deep_convSNN", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
