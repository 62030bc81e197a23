"""The table of every public entry, argument and way to hold it wrong; run as a script, it writes one line per cell.

A cell is an entry, a variant of it, an argument, a fault and a kernel. Its verdict is what must happen, on every kernel:

    refused   a UserError that names the argument
    clean     the result of the call without the fault
    equal     the result of the reference with the same fault
    able      equal, or a UserError of a kernel that does not compute so

`python tests/kernels/conformance.py` runs all cells in one process, names each before it runs, and so shows which one
crashed, also under a sanitizer.
"""

import copy
import inspect
import itertools
import json
import math
import sys
from dataclasses import replace

import numpy as np
import torch

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.eventprop.grid import GridLayer, GridReadout
from surgrad.eventprop.layers import EventLayer, EventReadout, Spikes
from surgrad.experiments.superspike.online import SuperSpikeNetwork, SuperSpikeRule
from surgrad.kernels import dispatch
from surgrad.kernels.gpu import network as cuda
from surgrad.kernels.philox import NoiseKey
from surgrad.network.connections import Conv, DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF, LIFState

T, B, DT = 9, 3, 2e-3
FORMS = {  # of one tensor, whatever it means
    "float64": (lambda x: x.double(), "clean"),
    "strided": (lambda x: torch.stack([x, x + 1], -1)[..., 0], "clean"),
    "meta": (lambda x: x.to("meta"), "refused"),
    "NumPy": (lambda x: x.detach().numpy(), "refused"),
    "no tensor": (lambda x: "0", "refused"),
}


def form(*names, **verdicts):
    """Faults of `FORMS`, with other verdicts for some of them."""
    return {n: (FORMS[n][0], verdicts.get(n.replace(" ", "_"), FORMS[n][1])) for n in names or FORMS}


def with_value(x, value, at=0):
    x = x.clone()
    x.view(-1)[at] = value
    return x


# ---------------------------------------------------------------- whole networks
def build_network(variant):
    torch.manual_seed(7)
    neuron = {"adaptive": AdaptiveLIF(), "noise": LIF(escape_noise=Sigmoid(5.0))}.get(variant, LIF())
    if variant == "conv":
        first, loop = Conv((1, 12), 4, 3, 2), Conv((4, 5), 4, 3, 1, 1)
    else:
        first, loop = DelayedDense(12, 9, 0.01) if variant == "delays" else Dense(12, 9), Dense(9, 9)
    layer = SpikingLayer(first, neuron, 20e-3, 10e-3, loop)
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
    found = [out] if isinstance(out, torch.Tensor) else []
    if isinstance(out, tuple | list):
        for part in out:
            found += flat(part)
    return found


def run_network(kernel, network, **arguments):
    return network(arguments.pop("x"), kernel=arguments.pop("kernel", kernel), **arguments)


def run_events(kernel, network, events, **arguments):
    return network(EventBatch(**events), kernel=kernel, **arguments)


def events_arguments(variant):
    network = build_network(variant)
    batch = EventBatch.from_dense(spikes_for(network))
    names = ("steps", "units", "offsets", "labels", "ids", "nb_steps", "unit_shape")
    return {"network": network, **{name: getattr(batch, name) for name in names}, "record": True}


def run_batch(kernel, network, record, **fields):
    return network(EventBatch(**fields), kernel=kernel, record=record)


def layer_of(state, change):
    return state._replace(layers=(state.layers[0]._replace(**change(state.layers[0])),))


def each(state, change):
    """All floating tensors of a state changed."""
    layers = tuple(type(layer)(*map(change, layer)) for layer in state.layers)
    pending = tuple(None if x is None else change(x) for x in state.pending)
    readout = LIFState(*map(change, state.readout))
    return state._replace(layers=layers, readout=readout, last_input=change(state.last_input), pending=pending)


STATE = {
    "None": (lambda s: None, "equal"),
    "float64": (lambda s: each(s, torch.Tensor.double), "clean"),
    "float16": (lambda s: each(s, torch.Tensor.half), "equal"),
    "strided": (lambda s: each(s, FORMS["strided"][0]), "clean"),
    "meta": (lambda s: each(s, lambda x: x.to("meta")), "refused"),
    "one sample more": (lambda s: each(s, lambda x: torch.cat([x, x[..., :1, :] if x.dim() == 2 else x])), "refused"),
    "i of one unit less": (lambda s: layer_of(s, lambda y: {"i": y.i[..., 1:]}), "refused"),
    "NaN": (lambda s: layer_of(s, lambda y: {"u": with_value(y.u, math.nan)}), "refused"),
    "s not binary": (lambda s: layer_of(s, lambda y: {"s": y.s + 0.5}), "refused"),
    "i is None": (lambda s: layer_of(s, lambda y: {"i": None}), "refused"),
    "no layers": (lambda s: s._replace(layers=()), "refused"),
    "no readout": (lambda s: s._replace(readout=None), "refused"),
    "last_input of one unit more": (
        lambda s: s._replace(last_input=torch.cat([s.last_input, s.last_input[..., :1]], -1)),
        "refused",
    ),
    "analogue last_input": (lambda s: s._replace(last_input=s.last_input * 0.5), "equal"),
    "step -1": (lambda s: s._replace(step=-1), "refused"),
    "step 1.5": (lambda s: s._replace(step=1.5), "refused"),
    "tuple": (tuple, "refused"),
    "dict": (lambda s: {}, "refused"),
}
IDS = {
    **form("meta", "NumPy", "no tensor", meta="refused"),
    "None": (lambda x: None, "equal"),
    "int32": (lambda x: x.int(), "clean"),
    "uint8": (lambda x: x.to(torch.uint8), "clean"),
    "strided": (lambda x: torch.stack([x, x], 1)[:, 0], "clean"),
    "float": (lambda x: x.float(), "refused"),
    "bool": (lambda x: x.bool(), "refused"),
    "one more": (lambda x: torch.cat([x, x[:1]]), "refused"),
    "one less": (lambda x: x[1:], "refused"),
    "two axes": (lambda x: x[None], "refused"),
    "negative": (lambda x: -x, "equal"),
    "beyond 32 bits": (lambda x: x + 2**32, "clean"),
}
INTEGER = {
    "float": (lambda x: 1.5, "refused"),
    "text": (lambda x: "1", "refused"),
    "None": (lambda x: None, "refused"),
    "NumPy": (np.int64, "clean"),
}
WORD = INTEGER | {"negative": (lambda x: -5, "equal"), "beyond 32 bits": (lambda x: x + 2**32, "clean")}
NAME = {"unknown": (lambda x: "fast", "refused"), "None": (lambda x: None, "refused")}


def parameter(find, change):
    """A network with one parameter replaced."""

    def fault(network):
        network = copy.deepcopy(network)
        owner, name = find(network)
        setattr(owner, name, torch.nn.Parameter(change(getattr(owner, name).detach())))
        return network

    return fault


PARAMETERS = {
    "feedforward": lambda n: (n.layers[0].feedforward, "weight"),
    "recurrent": lambda n: (n.layers[0].recurrent, "weight"),
    "readout": lambda n: (n.readout.feedforward, "weight"),
    "tau_mem": lambda n: (n.layers[0].tau_mem, "log_tau"),
    "tau_syn": lambda n: (n.readout.tau_syn, "log_tau"),
}
CHANGES = {
    "float64": (torch.Tensor.double, "refused"),
    "float16": (torch.Tensor.half, "refused"),
    "NaN": (lambda w: with_value(w, math.nan), "refused"),
    "inf": (lambda w: with_value(w, math.inf), "refused"),
    "meta": (lambda w: w.to("meta"), "refused"),
    "strided": (FORMS["strided"][0], "clean"),
}
WEIGHTS = {
    "one row more": (lambda w: torch.cat([w, w[:1]]), "refused"),
    "one column less": (lambda w: w[:, 1:] if w.shape[1] > 1 else w[..., 1:], "refused"),
}
NETWORK = {
    f"{name} {change}": (parameter(find, f), verdict)
    for name, find in PARAMETERS.items()
    for change, (f, verdict) in (CHANGES | ({} if "tau" in name else WEIGHTS)).items()
} | {
    "5 time constants": (parameter(PARAMETERS["tau_mem"], lambda x: x.expand(5).clone()), "refused"),
    "double": (lambda n: copy.deepcopy(n).double(), "able"),
}
X = {
    **form(),
    "bool": (lambda x: x.bool(), "clean"),
    "uint8": (lambda x: x.to(torch.uint8), "clean"),
    "int64": (lambda x: x.long(), "clean"),
    "float16": (lambda x: x.half(), "clean"),
    "complex": (lambda x: x.to(torch.complex64), "refused"),
    "no sample axis": (lambda x: x[:, 0], "refused"),
    "one axis more": (lambda x: x[..., None], "refused"),
    "one unit more": (lambda x: torch.cat([x, x[..., :1]], -1), "refused"),
    "one unit less": (lambda x: x[..., 1:], "refused"),
    "units before samples": (lambda x: x.movedim(-1, 1), "refused"),
    "time last": (lambda x: x.movedim(0, -1), "refused"),
    "samples first in memory": (lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), "clean"),
    "expanded": (lambda x: x[:1].expand(x.shape), "equal"),
    "NaN": (lambda x: with_value(x, math.nan, 5), "refused"),
    "inf": (lambda x: with_value(x, math.inf, 5), "refused"),
    "analogue": (lambda x: 0.5 * x, "equal"),
    "negative": (lambda x: -x, "equal"),
    "with gradient": (lambda x: x.clone().requires_grad_(), "clean"),
    "T = 0": (lambda x: x[:0], "refused"),
    "T = 1": (lambda x: x[:1], "equal"),
}
FLAG = {"0": (lambda x: 0, "equal"), "1": (lambda x: 1, "clean")}
FORWARD = {
    "x": X,
    "network": NETWORK,
    "ids": IDS,
    "seed": WORD,
    "draw": WORD
    | {
        "tensor": (torch.tensor, "clean"),
        "float tensor": (lambda x: torch.tensor(1.0), "refused"),
        "two draws": (lambda x: torch.tensor([1, 2]), "refused"),
    },
    "state": STATE,
    "record": FLAG,
    "return_state": FLAG,
    "truncate": INTEGER
    | {"-1": (lambda x: -1, "refused"), "4": (lambda x: 4, "clean"), "beyond T": (lambda x: 99, "clean")},
    "memory": NAME | {"recompute": (lambda x: "recompute", "clean")},
    "precision": NAME | {"bf16": (lambda x: "bf16", "able")},
    "kernel": NAME,
}
INDICES = {
    "float": (lambda x: x.float(), "refused"),
    "bool": (lambda x: x.bool(), "refused"),
    "int64": (lambda x: x.long(), "clean"),
    "strided": (lambda x: torch.stack([x, x], 1)[:, 0], "clean"),
    "one less": (lambda x: x[1:], "refused"),
    "one more": (lambda x: torch.cat([x, x[-1:]]), "refused"),
    "two axes": (lambda x: x[None], "refused"),
    "-1": (lambda x: with_value(x, -1), "refused"),
    "too large": (lambda x: with_value(x, 2**31 - 1), "refused"),
}
EVENTS = {
    "steps": INDICES
    | {"T": (lambda x: with_value(x, T, -1), "refused"), "T + 2": (lambda x: with_value(x, T + 2, -1), "refused")},
    "units": INDICES | {"one beyond": (lambda x: with_value(x, 12), "refused")},
    "offsets": INDICES | {"empty": (lambda x: x[:0], "refused"), "falling": (lambda x: x.flip(0), "refused")},
    "nb_steps": INTEGER | {"0": (lambda x: 0, "refused"), "-1": (lambda x: -1, "refused")},
    "unit_shape": {
        "one more": (lambda x: (*x[:-1], x[-1] + 1), "refused"),
        "flat": (lambda x: (2, 6), "refused"),
        "list": (list, "clean"),
    },
    "ids": IDS,
    "labels": {"float": (lambda x: x.float(), "clean")},
    "network": {},
    "record": {},
}


def repeated(arguments):
    """Every event twice, in reverse order within its sample."""
    order = torch.cat(
        [torch.arange(a, b).flip(0).repeat(2) for a, b in itertools.pairwise(arguments["offsets"].tolist())]
    )
    return arguments | {
        "steps": arguments["steps"][order],
        "units": arguments["units"][order],
        "offsets": 2 * arguments["offsets"],
    }


# ---------------------------------------------------------------- one layer driven by a current
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


def run_lif(kernel, **arguments):
    return dispatch.lif(
        arguments.pop("current"),
        arguments.pop("a"),
        arguments.pop("b"),
        arguments.pop("neuron"),
        kernel=arguments.pop("kernel", kernel),
        **arguments,
    )


def readout_arguments(variant):
    given = lif_arguments(variant)
    kept = ("current", "a", "b", "state")
    return {**{name: given[name] for name in kept}, "u0": -1e-3, "unit_gain": True}


def run_readout(kernel, **arguments):
    return dispatch.readout(
        arguments.pop("current"),
        arguments.pop("a"),
        arguments.pop("b"),
        kernel=arguments.pop("kernel", kernel),
        **arguments,
    )


CURRENT = {
    **form(float64="able"),
    "int": (lambda x: x.long(), "refused"),
    "one axis": (lambda x: x[:, 0, 0], "refused"),
    "two axes": (lambda x: x[:, 0], "refused"),
    "one unit less": (lambda x: x[..., 1:], "refused"),
    "T = 0": (lambda x: x[:0], "refused"),
    "NaN": (lambda x: with_value(x, math.nan, 5), "refused"),
    "inf": (lambda x: with_value(x, math.inf, 5), "refused"),
    "with gradient": (lambda x: x.clone().requires_grad_(), "clean"),
}
DECAY = {
    **form("float64", "strided", "meta", "no tensor", float64="clean"),
    "number": (lambda x: float(x.mean()), "equal"),
    "one more": (lambda x: torch.cat([x.reshape(-1)] * 6)[:6], "refused"),
    "NaN": (lambda x: x * math.nan, "refused"),
}
PAIR = {
    "None": (lambda s: None, "equal"),
    "float64": (lambda s: LIFState(*(x.double() for x in s)), "clean"),
    "strided": (lambda s: LIFState(*(FORMS["strided"][0](x) for x in s)), "clean"),
    "one sample less": (lambda s: LIFState(*(x[1:] for x in s)), "refused"),
    "one unit less": (lambda s: LIFState(*(x[:, 1:] for x in s)), "refused"),
    "NaN": (lambda s: LIFState(s.i, with_value(s.u, math.nan)), "refused"),
    "tuple": (tuple, "clean"),
    "one tensor": (lambda s: s.i, "refused"),
}
LIF_ROWS = {
    "current": CURRENT,
    "a": DECAY,
    "b": DECAY,
    "neuron": {
        "adaptive": (lambda n: AdaptiveLIF(), "refused"),
        "deterministic": (lambda n: LIF(), "equal"),
        "no neuron": (lambda n: "LIF", "refused"),
    },
    "recurrence": {
        "None": (lambda c: None, "equal"),
        "other units": (lambda c: Dense(4, 5), "refused"),
        "float64": (lambda c: copy.deepcopy(c).double(), "refused"),
        "function": (lambda c: torch.nn.Linear(5, 5), "able"),
        "no function": (lambda c: 3, "refused"),
    },
    "state": PAIR,
    "previous": {
        "None": (lambda x: None, "equal"),
        **form("float64", "strided", "meta", "no tensor"),
        "bool": (lambda x: x.bool(), "clean"),
        "one sample less": (lambda x: x[1:], "refused"),
        "not binary": (lambda x: x + 0.5, "refused"),
    },
    "noise": {"None": (lambda n: None, "equal"), "float seed": (lambda n: replace(n, seed=1.5), "refused")},
    "ids": IDS,
    "first_step": INTEGER | {"-1": (lambda x: -1, "refused")},
    "memory": NAME | {"recompute": (lambda x: "recompute", "clean")},
    "return_membrane": FLAG,
    "kernel": NAME,
}
READOUT_ROWS = {
    "current": CURRENT,
    "a": DECAY,
    "b": DECAY,
    "state": PAIR,
    "u0": {"text": (lambda x: "0", "refused"), "NaN": (lambda x: math.nan, "refused"), "int": (lambda x: 0, "equal")},
    "unit_gain": FLAG,
    "kernel": NAME,
}
