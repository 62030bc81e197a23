"""Ways to hold an argument wrong, and what must happen then: tables for `conformance.py`.

A fault is a change of a value and a verdict: "refused", a UserError that names the argument; "clean", the result
without the fault; "equal", the result of the reference with the same fault; "able", equal or refused by kernels that do
not compute so.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import torch

from surgrad.network.connections import Dense
from surgrad.neurons.lif import LIF, AdaptiveLIF, LIFState

T, B = 9, 3

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
    "one sample more": (lambda s: each(s, lambda x: torch.cat([x, x[:1]])), "refused"),
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
TAUS = {"inf": (lambda w: with_value(w, math.inf), "equal")}
WEIGHTS = {
    "one row more": (lambda w: torch.cat([w, w[:1]]), "refused"),
    "one column less": (lambda w: w[:, 1:] if w.shape[1] > 1 else w[..., 1:], "refused"),
}
NETWORK = {
    f"{name} {change}": (parameter(find, f), verdict)
    for name, find in PARAMETERS.items()
    for change, (f, verdict) in (CHANGES | (TAUS if "tau" in name else WEIGHTS)).items()
} | {
    "7 time constants": (parameter(PARAMETERS["tau_mem"], lambda x: x.expand(7).clone()), "refused"),
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
    "beyond 32 bits": (lambda x: x.long() + 2**32, "refused"),
}
EVENTS = {
    "steps": INDICES
    | {"T": (lambda x: with_value(x, T, -1), "refused"), "T + 2": (lambda x: with_value(x, T + 2, -1), "refused")},
    "units": INDICES | {"one beyond": (lambda x: with_value(x, 12), "refused")},
    "offsets": {k: v for k, v in INDICES.items() if k != "one more"}
    | {"empty": (lambda x: x[:0], "refused"), "falling": (lambda x: x.flip(0), "refused")},
    "nb_steps": INTEGER | {"0": (lambda x: 0, "refused"), "-1": (lambda x: -1, "refused")},
    "unit_shape": {
        "one more": (lambda x: (*x[:-1], x[-1] + 1), "refused"),
        "flat": (lambda x: (2, 6), "refused"),
        "list": (list, "clean"),
    },
    "counts": {k: v for k, v in INDICES.items() if "beyond" not in k}
    | {"none": (lambda x: None, "equal"), "0": (lambda x: with_value(x, 0), "equal")}
    | {"2^24 + 1": (lambda x: with_value(x.long(), 2**24 + 1), "refused")},
    "ids": IDS,
    "labels": {"float": (lambda x: x.float(), "clean")},
    "network": {},
    "record": {},
}


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
        "function": (lambda c: lambda s: s.flip(-1), "able"),
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
TIMES = {
    **form("float64", "strided", "meta", "NumPy", "no tensor", float64="refused"),
    "int": (lambda x: x.long(), "refused"),
    "float16": (lambda x: x.half(), "refused"),
    "two axes": (lambda x: x[None], "refused"),
    "one less": (lambda x: x[1:], "refused"),
    "one more": (lambda x: torch.cat([x, x[-1:]]), "refused"),
    "falling": (lambda x: x.flip(0), "refused"),
    "negative": (lambda x: x - 0.01, "refused"),
    "NaN": (lambda x: with_value(x, math.nan, 1), "refused"),
    "inf": (lambda x: with_value(x, math.inf, -1), "refused"),
}
UNITS = INDICES | {"one beyond": (lambda x: with_value(x, 6), "refused")}
OFFSETS = UNITS | {"empty": (lambda x: x[:0], "refused"), "falling": (lambda x: x.flip(0), "refused")}
OFFSETS["int32"] = (lambda x: x.int(), "clean")
del OFFSETS["one beyond"], OFFSETS["one more"]  # the latter is a sample without spikes
MATRIX = {
    "float16": (lambda w: w.half(), "refused"),
    "float64": (lambda w: w.double(), "refused"),
    "NaN": (lambda w: with_value(w, math.nan), "refused"),
    "meta": (lambda w: w.to("meta"), "refused"),
    "transposed memory": (lambda w: w.t().contiguous().t(), "clean"),
    "one axis": (lambda w: w[0], "refused"),
}
SECONDS = {
    "NaN": (lambda x: math.nan, "refused"),
    "negative": (lambda x: -x, "refused"),
    "text": (lambda x: "1", "refused"),
    "shorter than the spikes": (lambda x: x / 100, "refused"),
}
BITS = {
    **form("float64", "strided", "meta", "no tensor"),
    "bool": (lambda x: x.bool(), "clean"),
    "one axis less": (lambda x: x[0], "refused"),
    "one unit more": (lambda x: torch.cat([x, x[..., :1]], -1), "refused"),
    "one unit less": (lambda x: x[..., 1:], "refused"),
    "T = 0": (lambda x: x[:0], "refused"),
    "not binary": (lambda x: 0.5 * x, "refused"),
    "NaN": (lambda x: with_value(x, math.nan), "refused"),
}
BITS["strided"] = (lambda x: torch.stack([x, x], -1)[..., 0], "clean")
