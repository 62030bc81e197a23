"""Whether spikes and gradients on the device are right."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from scripts.gpu_check.common import DEVICE, DRY, ids_of, loss_of, network_of, spikes_for, time_is_up
from surgrad.errors import UserError
from surgrad.kernels import dispatch
from surgrad.kernels.call import Address, Options
from surgrad.kernels.judge import judge
from surgrad.kernels.philox import NoiseKey
from surgrad.kernels.state import NetworkOutput
from surgrad.network.connections import Conv, DelayedDense, Dense, GaussianDelays
from surgrad.network.network import Network
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.escape_noise import Exponential, Sigmoid, Step
from surgrad.neurons.lif import LIF, AdaptiveLIF, LIFState

Row = dict[str, Any]
SEED, DRAW = 11, 3


def run(network: Network, x: Tensor, **options: Any) -> NetworkOutput:
    """A run whose gradients the network then holds."""
    network.zero_grad()
    output = network(x, seed=SEED, draw=DRAW, ids=ids_of(x.shape[1]), record=True, kernel="cuda", **options)
    loss_of(output).backward()
    return output


def judged(what: str, network: Network, x: Tensor, **options: Any) -> Row:
    """Every spike and all gradients of one run, in float64 given the spikes that it recorded."""
    output = run(network, x, **options)
    bf16 = options.get("precision") == "bf16"
    given = Options(Address(NoiseKey(SEED, DRAW), ids_of(x.shape[1])), **options)
    rounded: Callable[[Tensor], Tensor] = (lambda w: w.bfloat16().float()) if bf16 else (lambda w: w)
    verdict = judge(network, x, given, output, loss_of, rounded)
    worst = max(verdict.gradients, key=lambda name: verdict.gradients[name])
    return {
        "what": what,
        "ok": verdict.right(2e-2 if bf16 else 1e-4) and sum(float(c.sum()) for c in output.counts) > 0,
        "spikes": sum(int(c.sum()) for c in output.counts),
        "decided": verdict.decided,
        "wrong": verdict.wrong,
        "rounding": verdict.rounding,
        "farthest": verdict.farthest,
        "readout": verdict.readout,
        "gradient": verdict.gradients[worst],
        "of": worst,
    }


def smoke() -> Iterator[Row]:
    """One small recurrent network."""
    network = network_of([Dense(8, 6)], [Dense(6, 6)], LIF(escape_noise=Sigmoid(5.0)), classes=3)
    yield judged("8-6-3, recurrent", network, spikes_for(network, 9, 3, 0.5))


def published(neuron: LIF, recurrent: bool) -> Network:
    """The published convolutional network; in a rehearsal a small one."""
    convs = [Conv((1, 40), 4, 5, 5)] if DRY else [Conv((1, 700), 16, 21, 10)]
    for filters, kernel, stride in ((8, 3, 2), (8, 2, 2)) if DRY else ((32, 7, 3), (64, 7, 3)):
        convs.append(Conv(convs[-1].out_shape, filters, kernel, stride))
    loops = [Conv(c.out_shape, c.out_shape[0], 5, 1, 2) if recurrent else None for c in convs]
    return network_of(convs, loops, neuron)


def strict() -> Iterator[Row]:
    """Published shapes with every noise, dense recurrence of every kind of launch, adaptation, delays, two axes."""
    nb_steps, nb_samples, density = (8, 2, 0.2) if DRY else (200, 64, 0.05)
    for noise in (Step(), Sigmoid(10.0), Exponential()):
        for recurrent in (True, False):
            network = published(LIF(escape_noise=noise), recurrent)
            what = f"published, {type(noise).__name__}{', recurrent' if recurrent else ''}"
            yield judged(what, network, spikes_for(network, nb_steps, nb_samples, density))
    inputs, sizes = (40, (6,)) if DRY else (700, (64, 128, 200, 256, 257, 700))
    neuron = LIF(escape_noise=Sigmoid(10.0), diff_reset=True, reset="subtractive")
    for units in sizes:
        for precision in ("float32", "bf16"):
            network = network_of([Dense(inputs, units)], [Dense(units, units)], neuron, per_unit=True)
            yield judged(
                f"{units} units", network, spikes_for(network, nb_steps, nb_samples, density), precision=precision
            )
            if time_is_up(10):
                return
    network = network_of([Dense(inputs, sizes[0])], [Dense(sizes[0], sizes[0])], neuron, per_unit=True)
    x = spikes_for(network, nb_steps, 265, density)
    yield judged(f"{sizes[0]} units, programs of many samples", network, x)
    size, adaptive, gaussian = (
        sizes[0],
        AdaptiveLIF(a=(0.0, 5.0)),
        GaussianDelays(inputs, sizes[0], 9e-3, 4e-3, 1e-3, 9),
    )
    for what, kind, connection, loop in (
        ("adaptive", adaptive, Dense(inputs, size), Dense(size, size)),
        ("delays of synapses", neuron, DelayedDense(inputs, size, 9e-3), Dense(size, size)),
        ("delays through Gaussians", neuron, gaussian, Dense(size, size)),
        ("delays of axons", neuron, AxonalDelays(inputs, size, 9e-3), AxonalDelays(size, size, 9e-3)),
        ("adaptive, delays of axons", adaptive, Dense(inputs, size), AxonalDelays(size, size, 9e-3, width=4e-3)),
    ):
        network = network_of([connection], [loop], kind)
        yield judged(f"{size} units, {what}", network, spikes_for(network, nb_steps, nb_samples, 2 * density))
    conv = Conv((2, 4, 4) if DRY else (2, 12, 12), 8, 3, 1, 1)
    network = network_of([conv], [Conv(conv.out_shape, 8, 3, 1, 1)], LIF())
    yield judged("two axes", network, spikes_for(network, nb_steps, 2 if DRY else 33, 0.2))


# Adversarial cases: each returns what is wrong, or "".


def _small(neuron: LIF | None = None) -> tuple[Network, Tensor]:
    network = network_of([Dense(8, 6), Dense(6, 5)], [Dense(6, 6), None], neuron or LIF(), classes=2)
    return network, spikes_for(network, 12, 4, 0.6)


def _gradients(network: Network) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def _apart(found: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    errors = [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(found, expected, strict=True)]
    return "" if max(errors) <= tolerance else f"relative differences up to {max(errors):.2g}"


def noncontiguous_states() -> str:
    """i, u and the spikes before, transposed in memory."""
    g = torch.Generator().manual_seed(0)
    current = (torch.randn(8, 3, 5, generator=g) * 2 + 1).to(DEVICE)
    i, u = (torch.rand(5, 3, generator=g).to(DEVICE).t() for _ in range(2))
    before = (torch.rand(5, 3, generator=g) < 0.5).float().to(DEVICE).t()
    ends = [
        dispatch.lif(current, 0.8, 0.9, LIF(), state=LIFState(i, u), previous=before, kernel=kernel)  # type: ignore[arg-type]
        for kernel in ("cuda", "reference")
    ]
    same = torch.equal(ends[0][0], ends[1][0])
    return _apart([ends[0][2].u], [ends[1][2].u], 1e-5) if same else "other spikes"


def end_state_gradients() -> str:
    """Gradients by the last states that are transposed, or expanded from one number."""
    network, x = _small()
    found = []
    for kernel in ("cuda", "reference"):
        network.zero_grad()
        state = network(x, ids=ids_of(4), return_state=True, kernel=kernel).state
        w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        ((state.layers[0].u.t() * w).sum() + state.layers[0].i.sum() + state.layers[1].s.sum()).backward()
        found.append(_gradients(network))
    return _apart(found[0], found[1], 1e-4)


def autocast() -> str:
    """Under autocast nothing is rounded."""
    network, x = _small()
    expected = run(network, x)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = run(network, x)
    return "" if torch.equal(expected.y, found.y) else "rounded"


def loose_global_flags() -> str:
    """A process that allows tf32 and bf16 in products gets float32 here, and its flags back."""
    network, x = _small()
    expected = run(network, x)
    expected_gradients = _gradients(network)
    torch.set_float32_matmul_precision("medium")
    found = run(network, x)
    if torch.get_float32_matmul_precision() != "medium":
        return "the flag is not restored"
    torch.set_float32_matmul_precision("highest")
    same = torch.equal(expected.y, found.y)
    return _apart(_gradients(network), expected_gradients, 1e-6) if same else "rounded"


def empty_batch() -> str:
    """No sample: nothing to do."""
    network, x = _small()
    return "" if network(x[:, :0], kernel="cuda").y.shape == (12, 0, 2) else "wrong shape"


def backward_twice() -> str:
    """With retain_graph, the second time gives what the first gave."""
    network, x = _small(LIF(diff_reset=True))
    loss, found = loss_of(network(x, kernel="cuda")), []
    for again in (True, False):
        network.zero_grad()
        loss.backward(retain_graph=again)
        found.append(_gradients(network))
    return _apart(found[0], found[1], 0.0)


def recomputed() -> str:
    """memory="recompute" changes no bit."""
    network, x = _small()
    found = []
    for memory in ("full", "recompute"):
        run(network, x, memory=memory)
        found.append(_gradients(network))
    return _apart(found[0], found[1], 0.0)


def repeats() -> str:
    """A spike that is read before it is stored shows as a run that differs from the one before."""
    units, nb_steps, nb_samples = (6, 9, 3) if DRY else (128, 350, 128)
    network = network_of([Dense(64, units)], [Dense(units, units)], LIF())
    x = spikes_for(network, nb_steps, nb_samples, 0.1)
    first = run(network, x)
    expected = _gradients(network)
    for _ in range(1 if DRY else 10):
        again = run(network, x)
        if not torch.equal(first.recorded[0], again.recorded[0]):
            return "other spikes"
        if problem := _apart(_gradients(network), expected, 0.0):
            return problem
    return ""


def cpu_input() -> str:
    """Parameters on the GPU and input on the CPU are refused, by name."""
    network, x = _small()
    if DRY:
        return ""
    try:
        network(x.cpu())
    except UserError as error:
        return "" if "x is on cpu" in str(error) else f"the message is {error}"
    return "accepted"


CASES = (
    noncontiguous_states, end_state_gradients, autocast, loose_global_flags, empty_batch, backward_twice, recomputed,
    repeats, cpu_input,
)  # fmt: skip


def adversarial() -> Iterator[Row]:
    """What a user may do that tests of shapes do not."""
    for case in CASES:
        try:
            problem = case()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:300]
        yield {"what": case.__name__.replace("_", " "), "ok": not problem, "error": problem}


def tests() -> Iterator[Row]:
    """The tests of the kernels, on the device."""
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    files = ["tests/kernels/test_judge.py"] if DRY else ["tests/kernels", "-k", "cuda and not compile"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *parallel, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    failed = [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    yield {"what": lines[-1], "ok": done.returncode == 0, "error": "; ".join(failed)[:2000]}


def memcheck() -> Iterator[Row]:
    """Reads and writes outside of arrays, found by compute-sanitizer."""
    if DRY or shutil.which("compute-sanitizer") is None:
        yield {"what": "compute-sanitizer is not here"}
        return
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", sys.executable]
    command += ["-m", "scripts.gpu_check", "--inside", "smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    yield {"what": "memcheck of smoke", "ok": done.returncode == 0, "error": done.stdout.strip()[-300:]}
