"""Layers driven by a current: the streaming kernel against the reference, and the memory of its arrays."""

import gc
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgrad.kernels import dispatch
from surgrad.kernels.cpu import build
from surgrad.kernels.cpu.memory import KEPT, MALLOC_VARIABLES, MALLOPT, PAGE, Pool, keep_freed
from surgrad.kernels.philox import NoiseKey
from surgrad.neurons import escape_noise, surrogate
from surgrad.neurons.lif import LIF, RESETS, LIFState

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C++ compiler on this machine")


def run(kernel, current, a, b, neuron, cotangent, **kw):
    inputs = [x.clone().requires_grad_() for x in (current, a, b)]
    spikes, _, end = dispatch.lif(*inputs, neuron, kernel=kernel, noise=NoiseKey(3, 1), **kw)
    spikes.backward(cotangent)
    return spikes.detach(), end, [x.grad for x in inputs]


def assert_equal(got, expected):
    assert torch.equal(got[0], expected[0])
    assert 0.01 < expected[0].mean() < 0.9
    pairs = [*zip(got[1], expected[1], strict=True), *zip(got[2], expected[2], strict=True)]
    for x, y in pairs:
        assert (x - y).abs().max() <= 1e-4 * y.abs().max().clamp_min(1e-3)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.sampled_from([4, 33, 70]),
    batch=st.integers(1, 7),
    neurons=st.sampled_from([16, 48, 128, 4096 + 80]),
    reset=st.sampled_from(sorted(RESETS)),
    h=st.sampled_from([surrogate.SuperSpike(8.0), surrogate.SigmoidPrime(6.0), surrogate.MultilayerSpiker()]),
    noise=st.sampled_from([escape_noise.Step(), escape_noise.Sigmoid(7.0)]),
    diff_reset=st.booleans(),
    repeated=st.sampled_from([(), (0,), (0, 1), (0, 1, 2)]),
    seed=st.integers(0, 100),
)
def test_equals_the_reference(steps, batch, neurons, reset, h, noise, diff_reset, repeated, seed):
    g = torch.Generator().manual_seed(seed)
    current = 4 * torch.randn(steps, batch, neurons, generator=g)
    current[0] += 9  # the first spikes come at the second step
    state = LIFState(*(1.5 * torch.rand(batch, neurons, generator=g) for _ in range(2)))
    a, b = (0.8 + 0.15 * torch.rand(neurons, generator=g) for _ in range(2))
    cotangent = torch.randn(steps, batch, neurons, generator=g)
    for dim in repeated:  # a gradient that is the same for all steps is not written out
        cotangent = cotangent.narrow(dim, 0, 1).expand(steps, batch, neurons)
    neuron, options = (
        LIF(h, noise, reset, diff_reset),
        {"ids": torch.arange(5, 5 + batch), "state": state, "first_step": 9},
    )
    arguments = (current, a, b, neuron, cotangent)
    assert_equal(run("cpu", *arguments, **options), run("reference", *arguments, **options))


def test_trained_decays_of_one_wide_sample_with_several_threads():
    g = torch.Generator().manual_seed(0)
    current, cotangent = (4 * torch.randn(300, 1, 3 * 4096, generator=g) for _ in range(2))
    a, b = (0.8 + 0.15 * torch.rand(3 * 4096, generator=g) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    got = run("cpu", current, a, b, LIF(), cotangent)
    torch.set_num_threads(before)
    assert_equal(got, run("reference", current, a, b, LIF(), cotangent))


def test_arrays_larger_than_the_cache_take_the_same_values():
    """Beyond 32 MiB results are written past the cache."""
    g = torch.Generator().manual_seed(0)
    current, cotangent = (torch.randn(70, 32, 4096, generator=g) for _ in range(2))
    decays = torch.tensor(0.8), torch.tensor(0.9)
    whole = run("cpu", 4 * current, *decays, LIF(), cotangent)
    for part in (slice(0, 3), slice(3, 32)):
        half = run("cpu", 4 * current[:, part], *decays, LIF(), cotangent[:, part])
        assert torch.equal(whole[0][:, part], half[0])
        assert torch.equal(whole[2][0][:, part], half[2][0])


def test_memory_serves_again_only_when_the_last_tensor_on_it_is_gone():
    pool = Pool()
    x = pool.empty(3, PAGE, dtype=torch.uint8)
    view, place = x[1], x.data_ptr()
    del x
    other = pool.empty(3, PAGE, dtype=torch.uint8)
    assert other.data_ptr() != place
    view.fill_(7)
    other.fill_(1)
    assert bool((view == 7).all())
    del view
    gc.collect()
    assert pool.empty(PAGE * 3 // 4, dtype=torch.float32).data_ptr() == place


def test_a_pool_keeps_a_bounded_amount_of_memory():
    pool = Pool()
    lent = [pool.empty(KEPT // 4, dtype=torch.uint8) for _ in range(6)]
    lent.clear()
    gc.collect()
    assert sum(map(len, pool._free)) <= KEPT
    pool.release()
    assert not pool._free


def test_the_c_library_keeps_freed_memory_unless_the_user_has_decided(monkeypatch):
    told = {}
    library = SimpleNamespace(mallopt=lambda parameter, nb_bytes: told.update({parameter: nb_bytes}) or 1)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    for name in MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert keep_freed()
    assert told == MALLOPT
    told.clear()
    monkeypatch.setenv(MALLOC_VARIABLES[0], "131072")
    assert not keep_freed()
    assert not told
    monkeypatch.delenv(MALLOC_VARIABLES[0])
    del library.mallopt  # another C library
    assert not keep_freed()


def test_gradients_of_trained_time_constants_are_the_same_in_every_run():
    g = torch.Generator().manual_seed(0)
    current = 3 * torch.randn(100, 256, 128, generator=g)  # eight tiles for four threads
    a, b = torch.full((128,), 0.8), torch.full((128,), 0.9)
    cotangent = torch.randn(100, 256, 128, generator=g)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        gradients = [run("cpu", current, a, b, LIF(), cotangent)[2] for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    for again in gradients[1:]:
        assert all(torch.equal(x, y) for x, y in zip(gradients[0], again, strict=True))
