"""Every public entry x argument x way to hold it wrong x kernel; run as a script, it writes one line per cell.

Verdicts and faults are in `conformance_faults.py`. The script names each cell before it runs it, in one process, and so
shows which one crashed, also under a sanitizer.
"""

import contextlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import pairwise

import torch
from conformance_faults import (
    BITS,
    EVENTS,
    FORWARD,
    LIF_ROWS,
    MATRIX,
    OFFSETS,
    READOUT_ROWS,
    SECONDS,
    TIMES,
    UNITS,
    B,
    T,
)

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.eventprop.grid import GridLayer, GridReadout
from surgrad.eventprop.layers import EventLayer, EventReadout, Spikes
from surgrad.experiments.superspike.online import SuperSpikeNetwork, SuperSpikeRule
from surgrad.kernels import dispatch
from surgrad.kernels.call import RunOptions
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF, LIFState

DT, DURATION = 2e-3, 0.05


# ---------------------------------------------------------------- whole networks
def build_network(variant):
    torch.manual_seed(7)
    neuron = {"adaptive": AdaptiveLIF(), "noise": LIF(escape_noise=Sigmoid(5.0))}.get(variant, LIF())
    if variant == "conv":
        first, loop = Conv((1, 12), 4, 3, 2), Conv((4, 5), 4, 3, 1, 1)
    elif variant == "loop":
        first, loop = AxonalDelays(12, 9, 0.01), AxonalDelays(9, 9, 8e-3, width=4e-3)
    else:
        first, loop = DelayedDense(12, 9, 0.01) if variant == "delays" else Dense(12, 9), Dense(9, 9)
    layer = SpikingLayer(first, neuron, 20e-3, 10e-3, loop, recurrent_dropout=0.3 * (variant == "loop"))
    return Network([layer], Readout(Dense(first.out_shape, 4), 20e-3, 10e-3), DT)


def spikes_for(network, nb_steps=T):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(nb_steps, B, *network.layers[0].feedforward.in_shape, generator=generator) < 0.3).float()


def network_arguments(variant):
    network = build_network(variant)
    with torch.no_grad():
        state = network(spikes_for(network), return_state=True, kernel="reference").state
    plain = {"seed": 1, "draw": 2, "record": True, "return_state": True, "truncate": 0, "memory": "full"}
    more = {"ids": torch.tensor([4, 0, 7]), "state": state, "precision": "float32"}
    return {"x": spikes_for(network), "network": network, **plain, **more}


def flat(out):
    if isinstance(out, tuple | list):
        return [x for part in out for x in flat(part)]
    return [out] if isinstance(out, torch.Tensor) else []


def run_network(chosen, network, autocast=False, **arguments):
    x, chosen = arguments.pop("x"), arguments.pop("kernel", chosen)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        return network(x, kernel=chosen, **arguments)


def events_arguments(variant):
    network = build_network(variant)
    batch = EventBatch.from_dense(spikes_for(network))
    names = ("steps", "units", "offsets", "labels", "ids", "nb_steps", "unit_shape")
    fields = {name: getattr(batch, name) for name in names}
    return {"network": network, **fields, "counts": 1 + batch.steps % 3, "record": True}


def run_batch(kernel, network, record, **fields):
    return network(EventBatch(**fields), kernel=kernel, record=record)


def repeated(arguments):
    """Every event twice, in reverse order within its sample; of its spikes, one counts with the first."""
    order = torch.cat([torch.arange(a, b).flip(0).repeat(2) for a, b in pairwise(arguments["offsets"].tolist())])
    again = {name: arguments[name][order] for name in ("steps", "units", "counts")}
    first = torch.cat([torch.arange(2 * (b - a)) < b - a for a, b in pairwise(arguments["offsets"].tolist())])
    again["counts"] = torch.where(first, 1, again["counts"] - 1)
    return arguments | again | {"offsets": 2 * arguments["offsets"]}


def lif_arguments(variant):
    generator = torch.Generator().manual_seed(2)
    current = 1.5 * torch.randn(T, B, 5, generator=generator) + 1
    torch.manual_seed(3)
    return {
        "current": current,
        "a": torch.tensor(0.8),
        "b": torch.linspace(0.8, 0.9, 5),
        "neuron": LIF(escape_noise=Sigmoid(5.0)),
        "recurrence": Dense(5, 5),
        "state": LIFState(current[0], current[1]),
        "previous": (current[2] > 0).float(),
        "noise": NoiseKey(1, 2, 3),
        "ids": torch.tensor([4, 0, 7]),
        "first_step": 5,
        "memory": "full",
        "return_membrane": True,
    }


def run_lif(chosen, current, a, b, neuron, **arguments):
    return dispatch.lif(current, a, b, neuron, **{"kernel": chosen} | arguments)


def readout_arguments(variant):
    given = lif_arguments(variant)
    kept = ("current", "a", "b", "state")
    return {**{name: given[name] for name in kept}, "u0": -1e-3, "unit_gain": True}


def run_readout(chosen, current, a, b, **arguments):
    return dispatch.readout(current, a, b, **{"kernel": chosen} | arguments)


# ---------------------------------------------------------------- EventProp and SuperSpike
def train_arguments(variant):
    generator = torch.Generator().manual_seed(4)
    times = torch.cat([torch.rand(20, generator=generator).sort().values * 0.04 for _ in range(B)])
    units = torch.randint(6, (20 * B,), generator=generator).int()
    weight = torch.rand(6, 4, generator=generator)
    given = {"times": times, "units": units, "offsets": torch.arange(B + 1) * 20, "weight": weight}
    if variant == "layer":
        given["recurrent"] = 0.2 * torch.rand(4, 4, generator=generator)
    return given | ({"at": torch.linspace(0, 0.04, 5)} if variant == "voltage" else {"duration": DURATION})


def run_trains(variant):
    def call(kernel, times, units, offsets, weight, recurrent=None, **arguments):
        layer = EventLayer(6, 4, recurrent=True) if variant == "layer" else EventReadout(6, 4)
        layer.weight = torch.nn.Parameter(weight)
        if variant == "layer":
            layer.recurrent = torch.nn.Parameter(recurrent)
        run = layer if variant == "layer" else getattr(layer, variant)
        return run(Spikes(times, units, offsets), *arguments.values())

    return call


TRAINS = {"times": TIMES, "units": UNITS, "offsets": OFFSETS, "weight": MATRIX, "duration": SECONDS}
AT = {
    "float64": (lambda x: x.double(), "clean"),
    "strided": (lambda x: torch.stack([x, x], 1)[:, 0], "clean"),
    "falling": (lambda x: x.flip(0), "refused"),
    "negative": (lambda x: x - 1, "refused"),
    "NaN": (lambda x: x * math.nan, "refused"),
    "two axes": (lambda x: x[None], "refused"),
    "meta": (lambda x: x.to("meta"), "refused"),
    "no tensor": (lambda x: 0.1, "refused"),
}


def grid_arguments(variant):
    generator = torch.Generator().manual_seed(5)
    spikes = (torch.rand(T, B, 6, generator=generator) < 0.4).float()
    return {"spikes": spikes, "weight": 2 * torch.rand(6, 4, generator=generator)}


def run_grid(kernel, spikes, weight):
    found = []
    for layer in (GridLayer(6, 4, kernel=kernel), GridReadout(6, 4, kernel=kernel)):
        layer.weight = torch.nn.Parameter(weight)
        found.append(layer(spikes))
    return found


def online_arguments(variant):
    given = grid_arguments(variant)
    return {"x": given["spikes"][:, 0], "target": given["spikes"][:, 1, :2], "learning": True, "record": True}


def run_online(kernel, **arguments):
    generator = torch.Generator().manual_seed(6)
    weights = torch.rand(4, 6, generator=generator), torch.rand(2, 4, generator=generator)
    return SuperSpikeNetwork(*weights, SuperSpikeRule(period=4)).run(**arguments)


# ---------------------------------------------------------------- the table
@dataclass(frozen=True)
class Entry:
    """A public entry: what it is called with, its faults by argument, kernels, variants, and words in its messages."""

    function: Callable
    arguments: Callable
    call: Callable
    rows: dict
    kernels: tuple[str, ...]
    variants: tuple[str, ...] = ("",)
    words: dict = field(default_factory=dict)
    several: dict = field(default_factory=dict)  # arguments made of several rows


CPU = ("reference", "cpu", "auto")
WHOLE = {
    "B = 0": (lambda a: a | {"x": a["x"][:, :0], "ids": None, "state": None}, "equal"),
    "autocast": (lambda a: a | {"autocast": True}, "clean"),
}
PARTS = ("weight", "decay", "time constant", "parameters", "float")
LIF_WORDS = {"recurrence": ("recurrence", "float64"), "noise": ("seed",), "current": ("current", "decay")}
ENTRIES = {
    "Network.forward": Entry(
        Network.forward,
        network_arguments,
        run_network,
        FORWARD | {"everything": WHOLE},
        CPU,
        ("lif", "conv", "adaptive", "delays", "loop", "noise"),
        {"network": PARTS, "x": ("x ",)},
        {"options": tuple(RunOptions.__annotations__)},
    ),
    "EventBatch": Entry(
        EventBatch,
        events_arguments,
        run_batch,
        EVENTS | {"everything": {"every event twice, backwards": (repeated, "clean")}},
        CPU,
        ("lif", "adaptive", "delays", "loop"),
        {name: (name, "events") for name in EVENTS},
    ),
    "lif": Entry(dispatch.lif, lif_arguments, run_lif, LIF_ROWS, CPU, words=LIF_WORDS),
    "readout": Entry(dispatch.readout, readout_arguments, run_readout, READOUT_ROWS, CPU, words=LIF_WORDS),
    **{
        f"EventProp {variant}": Entry(
            EventLayer.forward if variant == "layer" else getattr(EventReadout, variant),
            train_arguments,
            run_trains(variant),
            {k: v for k, v in TRAINS.items() if k != "duration" or variant != "voltage"}
            | {"layer": {"recurrent": MATRIX}, "voltage": {"at": AT}}.get(variant, {}),
            ("cpu",),
            (variant,),
            {
                "at": ("sampl",),
                "duration": ("duration", "window"),
                "times": ("times", "spikes"),
                "offsets": ("offsets",),
            },
            {"spikes": ("times", "units", "offsets")},
        )
        for variant in ("layer", "maximum", "voltage", "integral")
    },
    "EventProp on a grid": Entry(
        GridLayer.forward, grid_arguments, run_grid, {"spikes": BITS, "weight": {}}, ("reference", "cpu", "auto")
    ),
    "SuperSpike": Entry(
        SuperSpikeNetwork.run,
        online_arguments,
        run_online,
        {"x": BITS, "target": BITS},
        ("cpu",),
        words={"x": ("input",)},
    ),
}
#: Arguments whose values cannot be wrong: switches, and what has a default in seconds.
SWITCHES = {"learning", "record", "tau_weight", "self"}
#: What also runs in Triton's interpreter, which is slow: (argument, fault) of `Network.forward`.
INTERPRETED = (
    ("x", ("strided", "expanded", "uint8", "NaN", "T = 1", "one unit more", "meta")),
    ("state", ("strided", "float64", "one sample more", "analogue last_input")),
    ("ids", ("int32", "strided", "one less", "float")),
    ("network", ("feedforward strided", "recurrent NaN", "readout float16")),
    ("everything", ("B = 0", "autocast")),
)


@dataclass(frozen=True)
class Cell:
    entry: str
    variant: str
    argument: str
    fault: str
    kernel: str


def cells(interpreter: bool) -> Iterator[Cell]:
    """Every cell of the table, those of one fault side by side."""
    for name, entry in ENTRIES.items():
        for variant in entry.variants:
            for argument, faults in entry.rows.items():
                for fault in faults:
                    for kernel in entry.kernels if variant == entry.variants[0] else entry.kernels[:2]:
                        yield Cell(name, variant, argument, fault, kernel)
    for argument, faults in INTERPRETED if interpreter else ():
        for fault in faults:
            yield Cell("Network.forward", "lif", argument, fault, "cuda")


def missing_rows() -> list[str]:
    """Arguments and kernels of the library that the table does not know."""
    missing = []
    for name, entry in ENTRIES.items():
        for parameter in inspect.signature(entry.function).parameters:
            wanted = entry.several.get(parameter, (parameter,))
            missing += [f"{name}: {row}" for row in wanted if row not in entry.rows and row not in SWITCHES]
    known = {kernel for entry in ENTRIES.values() for kernel in entry.kernels} | {"cuda"}
    return missing + [f"kernel {kernel}" for kernel in dispatch.KERNELS if kernel not in known]


@cache
def plain_arguments(entry: str, variant: str) -> dict:
    """Arguments without a fault; faults change copies."""
    return ENTRIES[entry].arguments(variant)


def arguments_of(cell: Cell) -> dict:
    given = dict(plain_arguments(cell.entry, cell.variant))
    if cell.fault == "":
        return given
    change, _ = ENTRIES[cell.entry].rows[cell.argument][cell.fault]
    return change(given) if cell.argument == "everything" else given | {cell.argument: change(given.get(cell.argument))}


@cache
def outcome(cell: Cell) -> list[torch.Tensor] | Exception:
    try:
        return [x.detach() for x in flat(ENTRIES[cell.entry].call(cell.kernel, **arguments_of(cell)))]
    except Exception as error:
        return error


def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    if len(a) != len(b):
        return True
    return any(
        x.shape != y.shape or not torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-3)
        for x, y in zip(a, b, strict=True)
    )


def broken(cell: Cell) -> str:
    """What is wrong with a cell; "" if it is right."""
    entry = ENTRIES[cell.entry]
    _, verdict = entry.rows[cell.argument][cell.fault]

    found = outcome(cell)
    if isinstance(found, Exception):
        words = entry.words.get(cell.argument, (cell.argument,))
        if not isinstance(found, UserError):
            return f"{type(found).__name__} instead of a UserError: {found}"
        if verdict not in ("refused", "able"):
            return f"refused: {found}"
        named = verdict == "able" or any(word in str(found) for word in words)
        return "" if named else f"the message does not name it: {found}"
    if verdict == "refused":
        return "accepted"
    fault = {"argument": "", "fault": ""} if verdict == "clean" else {}
    wanted = outcome(replace(cell, kernel=entry.kernels[0], **fault))
    if isinstance(wanted, Exception):
        return f"the reference raises {wanted}"
    return "another result" if differ(wanted, found) else ""


def report(kind: str, text: str) -> None:
    sys.stdout.write(json.dumps([kind, text]) + "\n")
    sys.stdout.flush()


def main() -> None:
    for row in missing_rows():
        report("missing", row)
    for cell in cells("interpreter" in sys.argv):
        name = " | ".join(str(getattr(cell, f.name)) for f in fields(cell))
        report("cell", name)
        problem = broken(cell)
        if problem:
            report("broken", f"{name}: {problem}")
    report("end", "")


if __name__ == "__main__":
    main()
