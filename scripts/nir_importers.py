"""Has other simulators read networks of ours from NIR files, and compares their spikes step by step: docs/nir.md.

pip install nir nirtorch norse snntorch spikingjelly
python3 scripts/nir_importers.py                                  # a table of those that are installed
python3 scripts/nir_importers.py --record tests/network/nir_importers.npz
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgrad.network import nir as nir_export
from surgrad.network.connections import Conv, Dense
from surgrad.network.layers import SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF

NB_STEPS, NB_SAMPLES = 120, 2


def networks() -> dict[str, Network]:
    """Networks of two layers without a readout, so that the output is spikes."""
    torch.manual_seed(5)
    neuron, taus = LIF(reset="multiplicative_leak"), (20e-3, 10e-3)
    one, two = Conv((1, 20), 4, 5, 2, 1), Conv((2, 7, 8), 4, 3, 2, 1)
    return {
        "dense": Network(
            [SpikingLayer(Dense(20, 16), neuron, *taus), SpikingLayer(Dense(16, 8), neuron, *taus)], None, 2e-3
        ),
        "1-D convolution": Network(
            [SpikingLayer(one, neuron, *taus), SpikingLayer(Dense(one.out_shape, 8), neuron, 30e-3, 5e-3)], None, 2e-3
        ),
        "2-D convolution": Network(
            [SpikingLayer(two, neuron, *taus), SpikingLayer(Dense(two.out_shape, 8), neuron, 30e-3, 5e-3)], None, 2e-3
        ),
    }


def stimulus(network: Network) -> Tensor:
    """Random spikes (T, B, *units)."""
    connection = network.layers[0].feedforward
    assert isinstance(connection, Dense | Conv)
    generator = torch.Generator().manual_seed(7)
    return (torch.rand(NB_STEPS, NB_SAMPLES, *connection.in_shape, generator=generator) < 0.1).float()


def norse(path: Path, network: Network) -> Any:
    import nir
    from norse.torch import from_nir

    return from_nir(nir.read(str(path)), dt=network.dt)


def snntorch(path: Path, network: Network) -> Any:
    import nir
    from snntorch.import_nir import import_from_nir

    return import_from_nir(nir.read(str(path)))


def spikingjelly(path: Path, network: Network) -> Any:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return import_from_nir(str(path), dt=1e-4)


IMPORTERS = {"norse": norse, "snntorch": snntorch, "spikingjelly": spikingjelly}


@torch.no_grad()
def spikes_of(simulator: str, network: Network, x: Tensor) -> np.ndarray:
    """What a simulator emits for an input (T, B, *units): (T, B, units) of 0 and 1."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "network.nir"
        nir_export.write(network, path, dialect=simulator)
        model, state, outputs = IMPORTERS[simulator](path, network), None, []
        for step in x:
            out, state = model(step, state)
            outputs.append(out.detach().reshape(NB_SAMPLES, -1))
    return torch.stack(outputs).numpy()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="file for their spikes, which the tests hold ours against")
    options = parser.parse_args(arguments)
    recorded = {}
    print("| simulator | network | spikes here | theirs | different | earlier by |\n|---|---|---|---|---|---|")
    for simulator in IMPORTERS:
        if importlib.util.find_spec(simulator) is None:
            print(f"| {simulator} | not installed | | | | |")
            continue
        version = importlib.metadata.version(simulator)
        for name, network in networks().items():
            if name.startswith("1-D") and not nir_export.DIALECTS[simulator].one_axis:
                print(f"| {simulator} {version} | {name} | not read | | | |")
                continue
            x = stimulus(network)
            ours = network(x, record=True, kernel="reference").recorded[-1].detach().numpy()
            theirs, earlier = spikes_of(simulator, network, x), (2 + network.delay) * len(network.layers)
            differing = int((ours[earlier:] != theirs[:-earlier]).sum())
            numbers = f"{ours.sum():.0f} | {theirs.sum():.0f} | {differing} | {earlier} steps"
            print(f"| {simulator} {version} | {name} | {numbers} |")
            recorded[f"{simulator}/{version}/{name}"] = np.packbits(theirs.astype(bool), axis=0)
    if options.record:
        np.savez_compressed(options.record, **recorded)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
