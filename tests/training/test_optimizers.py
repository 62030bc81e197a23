"""SMORMS3 against its formula weight by weight; the registry."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.network.connections import DelayedDense, Dense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.network.parameters import TimeConstant
from surgrad.neurons.lif import AdaptiveLIF
from surgrad.training.optimizers import OPTIMIZERS, SMORMS3, build_optimizer, parameter_groups


def scalar_smorms3(w, gradients, lr, eps=1e-16):
    mem, m, v = 1.0, 0.0, 0.0
    for g in gradients:
        r = 1 / (mem + 1)
        m = (1 - r) * m + r * g
        v = (1 - r) * v + r * g * g
        c = m * m / (v + eps)
        mem = 1 + mem * (1 - c)
        w -= min(lr, c) * g / (math.sqrt(v) + eps)
    return w


@pytest.mark.parametrize("lr", [0.01, 10.0])
def test_smorms3_is_its_formula(lr):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in [(3, 2), (4,), ()]]
    start = [w.detach().clone() for w in weights]
    gradients = [[torch.randn(w.shape, dtype=torch.float64, generator=generator) for w in weights] for _ in range(7)]
    optimizer = SMORMS3(weights, lr=lr)
    for step in gradients:
        for w, g in zip(weights, step, strict=True):
            w.grad = g.clone()
        optimizer.step()
    for k, w in enumerate(weights):
        expected = [
            scalar_smorms3(float(w0), [float(step[k].flatten()[n]) for step in gradients], lr)
            for n, w0 in enumerate(start[k].flatten())
        ]
        torch.testing.assert_close(w.detach().flatten(), torch.tensor(expected, dtype=torch.float64))


def test_zero_gradients_leave_weights_finite_and_unchanged():
    w = torch.ones(3, requires_grad=True)
    optimizer = SMORMS3([w])
    for _ in range(3):
        w.grad = torch.zeros(3)
        optimizer.step()
    assert torch.equal(w.detach(), torch.ones(3))


def test_weights_without_gradient_and_mixed_dtypes():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    optimizer = SMORMS3([a, b, unused], lr=0.1)
    (a.sum() + b.sum()).backward()
    optimizer.step()
    assert (a < 1).all()
    assert (b < 1).all()
    assert (unused == 1).all()
    assert unused not in optimizer.state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finds_the_minimum_and_resumes_from_its_state(name, tmp_path):
    def loss_of(w):
        return ((w - torch.tensor([1.0, -2.0])) ** 2 * torch.tensor([1.0, 5.0])).sum()

    def train(w, optimizer, nb_steps):
        for _ in range(nb_steps):
            optimizer.zero_grad()
            loss_of(w).backward()
            optimizer.step()

    whole = torch.zeros(2, requires_grad=True)
    train(whole, build_optimizer(name, [whole], 0.05), 300)
    assert float(loss_of(whole.detach())) < 0.05

    first = torch.zeros(2, requires_grad=True)
    optimizer = build_optimizer(name, [first], 0.05)
    train(first, optimizer, 130)
    torch.save({"w": first.detach(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second = checkpoint["w"].clone().requires_grad_()
    optimizer = build_optimizer(name, [second], 0.05)
    optimizer.load_state_dict(checkpoint["optimizer"])
    train(second, optimizer, 170)
    assert torch.equal(second, whole)


def test_parameter_groups_have_their_own_lr():
    a, b = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = build_optimizer("smorms3", [{"params": [a], "lr": 1e-4}, {"params": [b]}], 1e-2)
    (a + b).sum().backward()
    optimizer.step()
    assert float(1 - b.detach()) == pytest.approx(100 * float(1 - a.detach()), rel=0.05)


def constants_of_all_kinds():
    tau = TimeConstant(20e-3, trainable=True)
    layer = SpikingLayer(DelayedDense(4, 3, 8e-3), AdaptiveLIF(), tau, 10e-3, Dense(3, 3))
    return Network([layer], Readout(Dense(3, 2), 0.1, 10e-3), dt=1e-3)


WEIGHTS = ["layers.0.feedforward.weight", "layers.0.recurrent.weight", "readout.feedforward.weight"]
TAU, DELAY = ["layers.0.tau_mem.log_tau"], ["layers.0.feedforward.delay.logit"]
ADAPTATION = [f"layers.0.adaptation.{name}.logit" for name in ("a", "b", "tau_w")]


@pytest.mark.parametrize(
    ("rates", "weights_decay", "expected"),
    [
        ({}, False, [(DELAY + WEIGHTS + ADAPTATION, None, None), (TAU, None, None)]),
        ({"lr_tau": 0.1}, False, [(DELAY + WEIGHTS + ADAPTATION, None, None), (TAU, 0.1, None)]),
        ({"lr_delay": 0.2}, False, [(WEIGHTS + ADAPTATION, None, None), (TAU, None, None), (DELAY, 0.2, None)]),
        (
            {"lr_delay": 0.2, "lr_adaptation": 0.3},
            True,
            [(WEIGHTS, None, None), (TAU, None, 0.0), (DELAY, 0.2, 0.0), (ADAPTATION, 0.3, 0.0)],
        ),
    ],
    ids=["plain", "tau", "delay", "decay"],
)
def test_constants_are_grouped_by_their_names(rates, weights_decay, expected):
    """Every trained parameter is in one group; those that do not decay are no weights."""
    network = constants_of_all_kinds()
    trained = {p: name for name, p in network.named_parameters() if p.requires_grad}
    groups = parameter_groups(network, rates, weights_decay=weights_decay)
    found = [
        (sorted(trained[p] for p in g["params"] if p in trained), g.get("lr"), g.get("weight_decay")) for g in groups
    ]
    assert found == [(sorted(names), lr, decay) for names, lr, decay in expected]
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smorms9", {}, "optimizer='smorms9' is unknown; allowed: smorms3, adam"),
        ("smorms3", {"lr": -1.0}, "lr=-1.0"),
        ("sgd", {"betas": (0.9, 0.9)}, "betas"),
        ("smorms3", {"weight_decay": 0.1}, "weight_decay"),
        ("adam", {"betas": (0.9, 1.5)}, "beta"),
    ],
)
def test_wrong_choices_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(name, [torch.ones(1, requires_grad=True)], **{"lr": 1e-3, **options})
