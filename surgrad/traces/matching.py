"""Replay of spike-train matching: one epoch of the published three-factor rule."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from surgrad.experiments.spike_train_matching.rules import Episode, three_factor
from surgrad.experiments.spike_train_matching.task import (
    Activity,
    Neurons,
    SpikeMode,
    Task,
    Weights,
    build_surrogate,
)
from surgrad.kernels import dispatch
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.lif import LIF, LIFState, lif_step
from surgrad.traces.golden import (
    Decay,
    Layer,
    Report,
    Trace,
    layer_of,
    settle,
)
from surgrad.training.losses import double_exponential_kernel


def replay_matching(trace: Trace, dtype: torch.dtype, kernel: str) -> Report:
    """Traces, update and distances given the stored spikes; spikes and membranes where they are deterministic."""
    report, scan = Report("stm"), partial(dispatch.lif, kernel=kernel, return_membrane=True)
    dt, tau_mem, tau_syn, theta, eps0, delta_uo = (
        float(trace[k]) for k in ("dt", "tau_mem", "tau_syn", "theta", "eps0", "delta_uo")
    )
    reset = "multiplicative" if trace["reset_mode"] else "multiplicative_leak"
    neurons = Neurons(dt, tau_mem, tau_syn, theta, eps0, delta_uo, reset)
    x, z = (torch.tensor(trace[k], dtype=dtype)[:, None] for k in ("x", "target"))
    weights = Weights(*(torch.tensor(trace[k], dtype=dtype) for k in ("w_hidden", "w_output")))
    names = ("spikes_hidden", "mem_hidden", "spikes_output", "mem_output")
    activity = Activity(*(torch.tensor(trace[k], dtype=dtype)[:, None, None] for k in names))
    task, surrogate = Task(x, z, neurons), build_surrogate(str(trace["method"]), float(trace["beta_hidden"]))
    decay = Decay(task.a, task.b)

    for layer, (given, current) in {
        "hidden": (activity.spikes_hidden, x @ weights.hidden),
        "output": (activity.spikes_output, activity.spikes_hidden[:, 0] @ weights.output),
    }.items():
        membrane = _membrane_given_spikes(current / neurons.theta, given[:, 0], decay, neurons.reset) * neurons.theta
        report.compare(f"mem_{layer}", membrane[:, 0], trace[f"mem_{layer}"])
    report.compare("filtered_input", task.psp_input[:, 0], trace["filtered_input"])
    report.compare("filtered_hidden", task.psp(activity.spikes_hidden)[:, 0, 0], trace["filtered_hidden"])
    kernel_eps = double_exponential_kernel(len(x), neurons.dt, neurons.tau_mem, neurons.tau_syn, neurons.eps0, dtype)
    report.compare("epsilon", kernel_eps, trace["epsilon"])
    slope = task.surrogate_hidden(activity, surrogate)
    report.compare("surrogate_hidden", slope[:, 0, 0], trace["surrogate_hidden"])
    update = three_factor(Episode(task, weights, activity, SpikeMode(), NoiseKey(), surrogate))
    report.compare("dw_hidden", update.hidden, trace["dw_hidden"])
    report.compare("dw_output", update.output, trace["dw_output"])
    report.compare("van_rossum", task.van_rossum(activity.spikes_output)[0, 0], trace["van_rossum"])
    report.compare("l2", task.l2(activity.spikes_output)[0, 0], trace["l2"])

    report.notes["spikes_given"] = bool(trace["stochastic"])
    if not trace["stochastic"]:
        neuron = LIF(reset=neurons.reset)

        def run(nudges: Sequence[Tensor]) -> list[Layer]:
            hidden = layer_of(scan(x @ weights.hidden / neurons.theta + nudges[0], *decay, neuron))
            current = hidden.spikes @ weights.output / neurons.theta + nudges[1]
            return [hidden, layer_of(scan(current, *decay, neuron))]

        golden = [activity.spikes_hidden[:, 0], activity.spikes_output[:, 0]]
        layers, report.spike_mismatches, report.near_threshold_flips = settle(run, [decay, decay], golden)
        for name, replayed in zip(("mem_hidden", "mem_output"), layers, strict=True):
            report.compare(name, replayed.membranes[:, 0] * neurons.theta, trace[name])
    return report


def _membrane_given_spikes(current: Tensor, spikes: Tensor, decay: Decay, reset: str) -> Tensor:
    """u[t] of a layer whose spikes are known, (T, B, N)."""
    state, membranes = LIFState(torch.zeros_like(current[0]), torch.zeros_like(current[0])), []
    for drive, s in zip(current, spikes, strict=True):
        membranes.append(state.u)
        state = lif_step(state, drive, s, decay.a, decay.b, LIF(reset=reset))
    return torch.stack(membranes)
