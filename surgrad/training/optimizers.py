"""SMORMS3, the optimiser of the published networks, beside those of PyTorch."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgrad.errors import UserError
from surgrad.network.parameters import TimeConstant

#: Parameters, or groups of them with options of their own.
Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class SMORMS3(torch.optim.Optimizer):
    """Squared mean over root mean squared cubed (Funk 2015): a step size per weight from the agreement of gradients.

    Per weight, with mem = 1 and m = v = 0 at the start and gradient g:

        r   = 1 / (mem + 1)
        m   = (1 - r) m + r g
        v   = (1 - r) v + r g^2
        c   = m^2 / (v + eps)                in [0, 1]: 1 where all gradients agree
        mem = 1 + mem (1 - c)
        w   = w - min(lr, c) g / (sqrt(v) + eps)

    Args:
        params: parameters or parameter groups.
        lr: largest step relative to the root mean square of the gradient.
        eps: keeps the quotients finite.

    Raises:
        UserError: for an lr or eps that is not positive, RuntimeError for a sparse gradient.
    """

    def __init__(self, params: Params, lr: float = 1e-3, eps: float = 1e-16):
        if not lr > 0 or not eps > 0:
            raise UserError(f"SMORMS3: lr={lr}, eps={eps} must be positive")
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; returns the loss of ``closure`` if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in _same_kind(p for p in group["params"] if p.grad is not None):
                self._update(weights, group["lr"], group["eps"])
        return loss

    def _update(self, weights: list[Tensor], lr: float, eps: float) -> None:
        gradients = [w.grad for w in weights if w.grad is not None]
        states = [self._state_of(w) for w in weights]
        mem, m, v = ([state[key] for state in states] for key in ("mem", "mean", "mean_square"))
        r = torch._foreach_add(mem, 1.0)
        torch._foreach_reciprocal_(r)
        torch._foreach_lerp_(m, gradients, r)
        torch._foreach_lerp_(v, torch._foreach_mul(gradients, gradients), r)
        agreement = torch._foreach_mul(m, m)
        torch._foreach_div_(agreement, torch._foreach_add(v, eps))
        torch._foreach_addcmul_(mem, mem, agreement, value=-1.0)
        torch._foreach_add_(mem, 1.0)
        torch._foreach_clamp_max_(agreement, lr)
        root = torch._foreach_sqrt(v)
        torch._foreach_add_(root, eps)
        torch._foreach_mul_(agreement, gradients)
        torch._foreach_addcdiv_(weights, agreement, root, value=-1.0)

    def _state_of(self, weight: Tensor) -> dict[str, Any]:
        if weight.grad is not None and weight.grad.is_sparse:
            raise RuntimeError("SMORMS3 does not take sparse gradients")
        state = self.state[weight]
        if not state:
            for key, start in (("mem", 1.0), ("mean", 0.0), ("mean_square", 0.0)):
                state[key] = torch.full_like(weight, start, memory_format=torch.preserve_format)
        return state


def _same_kind(weights: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Weights in lists of one device and dtype each, as the batched operations ask for."""
    lists: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for w in weights:
        lists.setdefault((w.device, w.dtype), []).append(w)
    return lists.values()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "smorms3": SMORMS3,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def count_on_device(optimizer: torch.optim.Optimizer, on: bool) -> None:
    """Whether what an optimiser counts is where its weights are, as a captured step needs, or on the host."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = on
    for weight, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(weight.device if on else "cpu", torch.float32)


def build_optimizer(name: str, params: Params, lr: float, **options: Any) -> torch.optim.Optimizer:
    """The optimiser that a config calls ``name``, in lower case.

    Args:
        name: one of `OPTIMIZERS`.
        params: parameters, or groups of them.
        lr: learning rate.
        options: further options of that optimiser, such as betas or momentum.

    Raises:
        UserError: for an unknown name, an option that the optimiser does not know, or a value it refuses.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer={name!r} is unknown; allowed: {', '.join(OPTIMIZERS)}")
    try:
        return OPTIMIZERS[name](params, lr=lr, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer={name} with lr={lr}, {options}: {error}") from error


def trained(network: nn.Module) -> list[TimeConstant]:
    """The time constants of a network that are trained."""
    constants = [module for module in network.modules() if isinstance(module, TimeConstant)]
    return [constant for constant in constants if constant.log_tau.requires_grad]


#: Parameters that are no weights of connections, by the configuration's key for their learning rate.
KINDS = {
    "lr_tau": "*.log_tau",
    "lr_delay": "*.delay.logit",
    "lr_adaptation": "*.adaptation.*",
    "normalization": "*.normalization.*",
}


def parameter_groups(
    network: nn.Module, rates: Mapping[str, float | None] | None = None, *, weights_decay: bool = False
) -> list[dict[str, Any]]:
    """Parameters for an optimiser: weights, and, where there are any, constants with a learning rate of their own.

    Args:
        network: whose parameters are grouped.
        rates: learning rates by the keys of `KINDS`: of log(tau), of the logits of delays and of adaptation, of the
            gain and shift of normalised currents; None for that of the weights.
        weights_decay: whether the optimiser has a weight decay, which is then for weights alone.
    """
    rates = rates or {}
    of_kind: dict[str, list[Tensor]] = {key: [] for key in KINDS}
    weights = []
    for name, parameter in network.named_parameters():
        key = next((key for key, pattern in KINDS.items() if fnmatch.fnmatchcase(name, pattern)), None)
        own = key is not None and parameter.requires_grad
        if own and key is not None and (weights_decay or key == "lr_tau" or rates.get(key) is not None):
            of_kind[key].append(parameter)
        else:
            weights.append(parameter)
    groups: list[dict[str, Any]] = [{"params": weights}]
    for key, constants in of_kind.items():
        if constants:
            rate, decay = rates.get(key), {"weight_decay": 0.0} if weights_decay else {}
            groups.append({"params": constants, **({} if rate is None else {"lr": rate}), **decay})
    return groups


def keep_within_bounds(optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """From now on, every step of the optimiser ends with the time constants of the network within their bounds."""
    constants = trained(network)

    def clip(*_: Any) -> None:
        for constant in constants:
            constant.clip_()

    if constants:
        optimizer.register_step_post_hook(clip)
