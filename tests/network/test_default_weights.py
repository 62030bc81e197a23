"""New connections make active layers through which gradients arrive; the README's training loop learns."""

import re
from pathlib import Path

import pytest
import torch

from surgrad.network.connections import GAIN, Conv, DaleDense, DelayedDense, Dense, MaskedDense
from surgrad.network.layers import Readout, SpikingLayer
from surgrad.network.network import Network
from surgrad.neurons.lif import LIF

DT = 2e-3
REPO = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: (Dense(200, 100), Dense(100, 100), Dense(100, 100)),
        lambda: (Conv((1, 200), 16, 21, 10), Conv((16, 18), 32, 7, 3), Conv((32, 4), 32, 3, 1)),
        lambda: (Dense(700, 50), DelayedDense(50, 50, 10e-3), Dense(50, 50)),
        lambda: [DaleDense(n, 50, torch.tensor([1.0, -1.0]).repeat(n // 2)) for n in (700, 50, 50)],
        lambda: [MaskedDense(n, 50, torch.tensor([1.0, 0.0]).repeat(n // 2)) for n in (700, 50, 50)],
    ],
    ids=["dense", "conv", "delays", "signed", "masked"],
)
@pytest.mark.parametrize("rate", [10, 50])
def test_three_layers_are_active_and_gradients_arrive(make, rate):
    torch.manual_seed(0)
    connections = make()
    layers = [SpikingLayer(connection, LIF(), 20e-3, 10e-3) for connection in connections]
    network = Network(layers, Readout(Dense(connections[-1].out_shape, 10), 20e-3, 10e-3), DT)
    x = (torch.rand(250, 8, *connections[0].in_shape) < rate * DT).float()
    out = network(x)
    torch.nn.functional.cross_entropy(out.readout.amax(0), torch.arange(8)).backward()
    for counts in out.counts:
        mean_rate = float(counts.detach().mean()) / (250 * DT)
        assert 1 < mean_rate < 100
    for layer in (*layers, network.readout):
        gradient = next(layer.feedforward.parameters()).grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 1e-5


def test_weights_have_the_documented_deviation_and_follow_the_seed():
    torch.manual_seed(1)
    first = Dense(400, 300).weight.detach()
    torch.manual_seed(1)
    assert torch.equal(first, Dense(400, 300).weight)
    assert float(first.std()) == pytest.approx(GAIN / 20, rel=0.02)
    assert abs(float(first.mean())) < 0.01 * GAIN


def test_the_training_loop_of_the_readme_learns(monkeypatch):
    monkeypatch.chdir(REPO)
    (code,) = [
        c for c in re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL) if "optimizer" in c
    ]
    scope = {"__name__": "documentation"}
    exec(compile(code, "README.md", "exec"), scope)
    network, loss, hits = scope["network"], scope["loss"], 0
    with torch.no_grad():
        for batch in scope["digits"].batches(100, dt=10e-3, nb_steps=80):
            hits += int((loss.predictions(network(batch).readout) == batch.labels).sum())
    assert hits / len(scope["digits"]) > 0.25  # chance is 0.1


def test_a_network_describes_itself():
    network = Network(
        [SpikingLayer(Conv((1, 30), 4, 5), LIF(), 20e-3, 10e-3)], Readout(Dense((4, 26), 3), 0.1, 10e-3), DT
    )
    shown = f"{network}\n{network.summary()}"
    for part in ("(1, 30) -> (4, 26)", "kernel_size=(5,)", "0.02 s", "kernel: ", "332 trained parameters"):
        assert part in shown
    assert "it was asked for" in network.summary("reference")
