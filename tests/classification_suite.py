"""What the tests of the Classification suite share: its script, overrides that make it tiny, a tiny network."""

import importlib.util
import sys

import torch

from surgrad.network.initializers import FluctuationDrivenCentered
from surgrad.network.methods import SpikeParameters, method_neuron
from surgrad.network.models import ConvStack, conv_snn
from surgrad.runs.record import REPO
from surgrad.training.loop import BatchGrid

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
SHORT = [
    "batch_size=16",
    "nb_epochs=2",
    "fano.repeats=5",
    "plotting.nb_samples=2",
    "test_draws=2",
    "wandb.mode=disabled",
    "device=cpu",
    "num_threads=1",
]
TINY = [*TINY_DATA, *TINY_NETWORK, *SHORT]


def load_script():
    """Classification/deep_convSNN.py as a module; its `main` takes a list of overrides."""
    spec = importlib.util.spec_from_file_location("deep_convSNN", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GRID = BatchGrid(batch_size=8, dt=2e-3, nb_steps=40, unit_shape=(1, 12))
STACK = ConvStack(1, [4], [3], [2], [0], rec=True, rec_kernel_size=3, rec_padding=1)


def make_network(method="stochasticsuperspike", seed=0):
    """A recurrent layer of four channels on twelve inputs."""
    neuron = method_neuron(method, SpikeParameters())
    network = conv_snn(
        STACK, in_shape=(1, 12), nb_classes=3, neuron=neuron, dt=2e-3, tau_mem=2e-2, tau_syn=1e-2, tau_readout=0.1
    )
    FluctuationDrivenCentered(1.3, nu=12.0)(network, torch.Generator().manual_seed(seed))
    return network
