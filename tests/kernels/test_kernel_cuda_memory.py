"""What the Triton kernels keep for the backward pass: how much, and for how long."""

import gc
import math
from types import SimpleNamespace

import pytest
import torch
from kernels.triton_networks import ids_of, loss_of, network, spikes_for
from torch.multiprocessing.reductions import StorageWeakRef

from surgrad.kernels.gpu import plan
from surgrad.network.connections import Dense
from surgrad.neurons.lif import LIF

T, B, UNITS = 16, 4, (12, 8)


@pytest.fixture
def kept(monkeypatch):
    """Bytes and storage of everything that forward passes keep."""
    found, tensors = [], plan.Kept.tensors

    def record(self):
        result = tensors(self)
        found.extend((x.nbytes, StorageWeakRef(x.untyped_storage())) for x in result if x is not None)
        return result

    monkeypatch.setattr(plan.Kept, "tensors", record)
    return found


def run(**options):
    net = network(Dense(10, 12), Dense(12, 8), neuron=LIF(diff_reset=True), recurrent=[Dense(12, 12), None])
    x = spikes_for(net, T, B)
    return net, net(x, ids=ids_of(x), kernel="cuda", **options)


def alive(kept):
    gc.collect()  # the interpreter ties its last launch into a cycle
    return [not storage.expired() for _, storage in kept]


def test_it_is_freed_by_the_backward_pass_though_the_output_lives(kept):
    _, output = run()
    assert kept
    assert all(alive(kept))
    loss_of(output).backward()
    assert not any(alive(kept))
    with pytest.raises(RuntimeError, match="second time"):
        loss_of(output).backward()


def test_it_lives_while_the_graph_is_retained(kept):
    net, output = run()
    gradients, loss = [], loss_of(output)
    for again in (True, False):
        net.zero_grad()
        loss.backward(retain_graph=again)
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        assert all(alive(kept)) == again
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_nothing_is_kept_without_gradients(kept):
    with torch.no_grad():
        run()
    assert not any(alive(kept))


@pytest.mark.parametrize(("memory", "currents"), [("full", 4), ("recompute", 0)])
def test_bytes_per_neuron_and_step(kept, memory, currents):
    """A byte of spike, two float32 states at every sqrt(T)-th step, and with "full" the current (docs/cuda.md)."""
    _, output = run(memory=memory)
    nb_neurons, classes = B * sum(UNITS), B * 3
    expected = T * nb_neurons * (1 + currents + 8 / math.sqrt(T)) + nb_neurons + T * classes * currents
    assert sum(nbytes for nbytes, _ in kept) == expected
    assert output.y.requires_grad


@pytest.mark.parametrize(("longest", "truncate", "lengths"), [
    (350, 0, [350]), (154, 0, [117, 117, 116]), (4, 6, [3, 3, 3, 3, 2]), (9, 20, [7, 7]),
])  # fmt: skip
def test_chunks_are_few_and_of_equal_length(longest, truncate, lengths):
    found = plan.chunks(sum(lengths), longest, truncate)
    assert [chunk.stop - chunk.start for chunk in found] == lengths
    assert [chunk.start for chunk in found] == [sum(lengths[:k]) for k in range(len(lengths))]
    assert found[-1].cut


def test_a_chunk_takes_a_32nd_of_the_memory_of_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 << 30))
    assert plan.array_bytes(torch.device("cuda"), "full") == 768 << 20
    assert plan.array_bytes(torch.device("cuda"), "recompute") == 192 << 20
