"""Reads networks that other simulators wrote as NIR, and compares spikes step by step: docs/nir.md.

pip install nir nirtorch norse snntorch spikingjelly sinabs
python3 scripts/nir_exporters.py                                      # a table of those that are installed
python3 scripts/nir_exporters.py --record tests/network/nir_exported  # their files, inputs and spikes, for the tests
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Tensor, nn

from surgrad.network.nir_import import from_nir

NB_STEPS, NB_SAMPLES = 100, 2
LATER = 2  # steps of a layer: a spike reaches the membrane two steps later here


class Exported(NamedTuple):
    """A network of another simulator.

    Attributes:
        model: called with a step (B, *units) after `start`; gives spikes (B, units).
        start: begins anew.
        graph: what its exporter wrote.
        reading: arguments of `surgrad.network.nir_import.from_nir` beside the graph.
    """

    model: Callable[[Tensor], Tensor]
    graph: nir.NIRGraph
    reading: dict[str, Any]


def _stack(first: nn.Module, second: nn.Module, conv: bool = False) -> list[nn.Module]:
    """Two layers with random weights that make both fire."""
    torch.manual_seed(4)
    below: Any = nn.Conv2d(2, 4, 3, 2, 1) if conv else nn.Linear(20, 16)
    above: Any = nn.Linear(64 if conv else 16, 8)
    for connection in (below, above):
        nn.init.normal_(connection.weight, 0.15, 0.5)
        nn.init.normal_(connection.bias, 0.0, 0.02)
    return [below, first, *([nn.Flatten(1)] if conv else []), above, second]


def _scale(model: nn.Module, factor: float) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= factor


def _norse(cell: str) -> Exported:
    import norse.torch as norse

    model = norse.SequentialState(*_stack(getattr(norse, cell)(), getattr(norse, cell)()))
    _scale(model, 4)
    state: list[Any] = [None]

    def step(x: Tensor) -> Tensor:
        out, state[0] = model(x, state[0])
        return out

    reading = {"dt": 1e-3, "decay": "euler", "dialect": "norse"}
    return Exported(step, norse.to_nir(model, torch.zeros(1, 20)), reading)


def _snntorch(cell: str, reset: str, **options: Any) -> Exported:
    import snntorch
    from snntorch.export_nir import export_to_nir

    def make(size: int, **more: Any) -> nn.Module:
        """A population; its exporter asks for constants of every neuron, where there is no loop."""
        shared = {"beta": 0.9, "init_hidden": True, "reset_mechanism": reset, **options, **more}
        if cell.startswith("R"):
            shared |= {"all_to_all": True, "linear_features": size}
        else:
            shared |= {key: torch.full((size,), shared[key]) for key in ("alpha", "beta") if key in shared}
            shared["threshold"] = torch.ones(size)
        return getattr(snntorch, cell)(**shared)

    model = nn.Sequential(*_stack(make(16), make(8, output=True)))
    graph = export_to_nir(model, torch.zeros(20))
    for layer in model:
        if isinstance(layer, snntorch.SpikingNeuron):
            layer.reset_hidden() if hasattr(layer, "reset_hidden") else layer.reset_mem()

    def step(x: Tensor) -> Tensor:
        return model(x)[0]

    ours = "subtractive" if reset == "subtract" else "multiplicative_leak" if cell == "Leaky" else "multiplicative"
    return Exported(step, graph, {"dt": 1e-4, "decay": "euler", "reset": ours})


def _spikingjelly(conv: bool = False, **options: Any) -> Exported:
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def cell() -> nn.Module:
        return neuron.LIFNode(tau=10.0, v_reset=0.0, **options)

    model = nn.Sequential(*_stack(cell(), cell(), conv))
    _scale(model, 6 if options["decay_input"] else 1)
    graph = export_to_nir(model, torch.zeros(1, *((2, 8, 8) if conv else (20,))))
    functional.reset_net(model)
    return Exported(model, graph, {"dt": 1e-4, "decay": "euler"})


def _sinabs() -> Exported:
    import sinabs.activation
    import sinabs.layers
    from sinabs.nir import to_nir

    def cell() -> nn.Module:
        return sinabs.layers.LIF(tau_mem=10.0, spike_fn=sinabs.activation.SingleSpike, norm_input=True)

    model = nn.Sequential(*_stack(cell(), cell()))
    _scale(model, 6)
    graph = to_nir(model, torch.zeros(1, 1, 20))
    for layer in (model[1], model[3]):
        layer.reset_states()  # type: ignore[operator]

    def step(x: Tensor) -> Tensor:
        return model(x[:, None])[:, 0]

    return Exported(step, graph, {"dt": 1.0, "reset": "subtractive_leak"})


EXPORTED: dict[str, Callable[[], Exported]] = {
    "norse LIFCell": lambda: _norse("LIFCell"),
    "norse LIFBoxCell": lambda: _norse("LIFBoxCell"),
    "snntorch Leaky, zero": lambda: _snntorch("Leaky", "zero"),
    "snntorch Leaky, subtract": lambda: _snntorch("Leaky", "subtract"),
    "snntorch Synaptic, zero": lambda: _snntorch("Synaptic", "zero", alpha=0.8),
    "snntorch RLeaky, zero": lambda: _snntorch("RLeaky", "zero"),
    "spikingjelly LIFNode": lambda: _spikingjelly(decay_input=False),
    "spikingjelly LIFNode, decay_input": lambda: _spikingjelly(decay_input=True),
    "spikingjelly LIFNode, 2-D convolution": lambda: _spikingjelly(conv=True, decay_input=False),
    "sinabs LIF": _sinabs,
}


def stimulus(shape: tuple[int, ...]) -> Tensor:
    """Random spikes (T, B, *units)."""
    return (torch.rand(NB_STEPS, NB_SAMPLES, *shape, generator=torch.Generator().manual_seed(7)) < 0.15).float()


@torch.no_grad()
def compare(exported: Exported, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes of the last layer there and here, (T, B, units); ours moved to their steps."""
    theirs = torch.stack([exported.model(step).reshape(NB_SAMPLES, -1) for step in x])
    network = from_nir(exported.graph, **exported.reading)
    later = LATER * len(network.layers)
    silence = torch.zeros_like(x[:1]).expand(later, *x.shape[1:])
    first: Any = network.layers[0].feedforward
    shape = first.in_shape  # exporters count the axis of samples to the units
    given = torch.cat([x, silence]).reshape(-1, NB_SAMPLES, *shape)
    ours = network(given, record=True, kernel="reference").recorded[-1]
    return theirs, ours[later:].flatten(2)


def _writable(graph: nir.NIRGraph) -> nir.NIRGraph:
    """Constants without an axis, which `nir.write` refuses, get one."""
    for node in graph.nodes.values():
        if isinstance(node, nir.LIF | nir.CubaLIF):
            for key in ("tau", "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset"):
                if hasattr(node, key):
                    setattr(node, key, np.atleast_1d(np.asarray(getattr(node, key), np.float32)))
    return graph


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="folder for their files and spikes, which the tests read")
    options = parser.parse_args(arguments)
    print("| simulator | network | spikes there | here | different |\n|---|---|---|---|---|")
    for name, make in EXPORTED.items():
        simulator, _, network = name.partition(" ")
        if importlib.util.find_spec(simulator) is None:
            print(f"| {simulator} | not installed | | | |")
            continue
        x = stimulus((2, 8, 8) if "convolution" in name else (20,))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exported = make()
            theirs, ours = compare(exported, x)
        except Exception as error:
            print(f"| {simulator} | {network} | {type(error).__name__}: {' '.join(str(error).split())[:150]} | | |")
            continue
        differing = int((theirs != ours).sum())
        version = importlib.metadata.version(simulator)
        print(f"| {simulator} {version} | {network} | {theirs.sum():.0f} | {ours.sum():.0f} | {differing} |")
        if options.record:
            options.record.mkdir(parents=True, exist_ok=True)
            file = options.record / name.replace(" ", "-").replace(",", "")
            nir.write(file.with_suffix(".nir"), _writable(exported.graph))
            about: dict[str, Any] = {"reading": np.array([repr(exported.reading)]), "version": version}
            spikes = np.packbits(theirs.numpy().astype(bool), axis=0)
            np.savez_compressed(file.with_suffix(".npz"), spikes=spikes, shape=x.shape[2:], **about)


if __name__ == "__main__":
    main(sys.argv[1:])
