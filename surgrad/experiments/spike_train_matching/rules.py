"""The updates of spike-train matching: the three-factor rule, the same by autograd, and full backpropagation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgrad.experiments.spike_train_matching.task import Activity, SpikeMode, Task, Weights
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons.surrogate import Surrogate


# ---------------------------------------------------------------- updates
@dataclass(frozen=True)
class Episode:
    """One presentation, as an update sees it.

    Args:
        task: input, target and neurons.
        weights: of both layers.
        activity: what the network did.
        mode: how spikes were drawn.
        key: of the draws.
        surrogate: of the hidden neurons.
    """

    task: Task
    weights: Weights
    activity: Activity
    mode: SpikeMode
    key: NoiseKey
    surrogate: Surrogate


@torch.no_grad()
def three_factor(episode: Episode) -> Weights:
    """The rule by its adjoint (equations at the top); before the learning rate, averaged over trials and pairs."""
    task, weights, activity = episode.task, episode.weights, episode.activity
    difference = task.difference(activity.spikes_output)
    d_output = task.psp(activity.spikes_hidden).flatten(0, 2).T @ difference.flatten(0, 2)
    back = task.eps.adjoint(difference @ weights.output.T) * task.surrogate_hidden(activity, episode.surrogate)
    d_hidden = task.psp_input.flatten(0, 1).T @ back.sum(1).flatten(0, 1)
    scale = 1 / (task.neurons.delta_uo * difference.shape[1] * difference.shape[2])
    return Weights(d_hidden * scale, d_output * scale)


class _GivenSpikes(torch.autograd.Function):
    """Forward: spikes drawn already. Backward: a given factor instead of dS/du."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor, spikes: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return spikes.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


@torch.enable_grad()
def autograd_three_factor(episode: Episode) -> Weights:
    """The same rule by automatic differentiation, with the paths it cuts written out.

    It is the gradient of sum_t delta_o[t] u_o[t] with (1) delta_o held constant, so that nothing flows through output
    spikes; (2) membranes without reset, u = W PSP, in both layers; (3) eps in place of the PSP kernel on the way from
    hidden spikes to output membranes; (4) the surrogate, taken at the true membrane with reset, in place of dS/du.
    """
    task, activity = episode.task, episode.activity
    w_hidden, w_output = (w.detach().requires_grad_() for w in episode.weights)
    error = task.difference(activity.spikes_output).detach() / task.neurons.delta_uo
    free = (task.psp_input @ w_hidden)[:, None].expand_as(activity.spikes_hidden)
    spikes = _GivenSpikes.apply(free, activity.spikes_hidden, task.surrogate_hidden(activity, episode.surrogate))
    membrane = task.psp(spikes.detach()) @ w_output + task.eps(spikes) @ w_output.detach()
    objective = (error * membrane).sum() / (error.shape[1] * error.shape[2])
    return Weights(*torch.autograd.grad(objective, (w_hidden, w_output)))


@torch.enable_grad()
def full_backpropagation(episode: Episode) -> Weights:
    """Minus the gradient of the van Rossum distance, summed over outputs, through time, resets and output spikes.

    Nothing is cut: the method's surrogate stands for dS/du in both layers, in spikes and in resets. Through resets and
    time, surrogates with a large peak (such as sigmoid' of the output's slope) explode (Zenke & Vogels 2021).
    """
    task = episode.task
    weights = Weights(*(w.detach().requires_grad_() for w in episode.weights))
    nb_trials = episode.activity.spikes_output.shape[1]
    activity = task.forward(weights, episode.mode, episode.key, nb_trials, surrogate=episode.surrogate)
    loss = task.van_rossum(activity.spikes_output).mean() * task.target.shape[-1]
    return Weights(*(-g for g in torch.autograd.grad(loss, weights)))


UPDATES: dict[str, Callable[[Episode], Weights]] = {
    "three_factor": three_factor,
    "autograd": autograd_three_factor,
    "full": full_backpropagation,
}
