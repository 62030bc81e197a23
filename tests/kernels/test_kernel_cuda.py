"""The Triton kernels compute what the reference computes: same spikes, gradients to rounding.

Without a GPU they run in Triton's interpreter, which shows that the equations and the indexing are right, but not how
memory is ordered or how fast they are. With one, the same tests run on it.
"""

import pytest
import torch
from kernels.spiking_parts import NOISES, SURROGATES
from kernels.triton_networks import (
    DEVICE,
    assert_close,
    check,
    ids_of,
    loss_of,
    network,
    results,
    spikes_for,
)

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.network.connections import Conv, Dense
from surgrad.neurons import escape_noise, surrogate
from surgrad.neurons.lif import LIF, RESETS


@pytest.mark.parametrize(("reset", "diff_reset"), [*((reset, True) for reset in RESETS), ("multiplicative", False)])
def test_resets(reset, diff_reset):
    neuron = LIF(surrogate.SuperSpike(5.0), reset=reset, diff_reset=diff_reset, unit_gain=not diff_reset)
    check(network(Dense(8, 6), neuron=neuron, recurrent=[Dense(6, 6)]), spikes_for(network(Dense(8, 6)), 11, 3))


@pytest.mark.parametrize("h", SURROGATES, ids=lambda h: type(h).__name__)
def test_surrogates(h):
    net = network(Dense(8, 5), Dense(5, 6), neuron=LIF(h))
    check(net, spikes_for(net, 12, 2))


@pytest.mark.parametrize(
    ("shape", "noise"), [*((shape, NOISES[1]) for shape in [(7,), (8, 5), (3, 5), (4, 3, 3)]), ((3, 5), NOISES[2])]
)
def test_escape_noise_has_the_address_of_the_reference(noise, shape):
    """Channels that are a multiple of 4 share blocks of random numbers within a column, others do not."""
    connection = Dense(6, 7) if len(shape) == 1 else Conv((1, *shape[1:]), shape[0], 1)
    net = network(connection, neuron=LIF(escape_noise=noise), classes=0)
    check(net, spikes_for(net, 9, 3))


@pytest.mark.parametrize(
    ("noise", "connection", "loop"),
    [
        *((noise, Dense(6, 9), Dense(9, 9)) for noise in NOISES),
        (NOISES[1], Conv((2, 11), 4, 3, 2), Conv((4, 5), 4, 3, 1, 1)),
    ],
)
@pytest.mark.usefixtures("programs")
def test_recurrence_in_one_launch(noise, connection, loop):
    net = network(connection, neuron=LIF(escape_noise=noise), recurrent=[loop], trained="units")
    check(net, spikes_for(net, 9, 2))


def test_recurrence_over_two_axes():
    net = network(Conv((1, 3, 4), 3, 1), recurrent=[Conv((3, 3, 4), 3, 3, 1, 1)])
    check(net, spikes_for(net, 6, 1))


@pytest.mark.usefixtures("programs")
def test_more_samples_than_one_program_holds():
    net = network(Dense(4, 3), recurrent=[Dense(3, 3)])
    check(net, spikes_for(net, 6, 19))


def test_recurrence_that_does_not_fit_is_walked_step_by_step(monkeypatch):
    from surgrad.kernels.gpu import layer as triton_layer

    monkeypatch.setattr(triton_layer, "LARGEST_TILE", 0)
    neuron = LIF(escape_noise=escape_noise.Sigmoid(7.0), diff_reset=True)
    net = network(Dense(6, 9), Dense(9, 4), neuron=neuron, recurrent=[Dense(9, 9), None], trained="units")
    check(net, spikes_for(net, 9, 3))


@pytest.mark.parametrize(("delay", "trained"), [(0, "layer"), (1, "units")])
def test_trained_time_constants(delay, trained):
    neuron = LIF(reset="subtractive", diff_reset=True)
    net = network(Conv((1, 9), 3, 3, 2), Dense((3, 4), 5), neuron=neuron, delay=delay, trained=trained)
    _, gradients = check(net, spikes_for(net, 12, 3))
    assert all(g.abs().sum() > 0 for name, g in gradients.items() if "tau" in name and g is not None)


def test_chunks_of_time_and_memory_change_nothing():
    """Chunks of two steps, so that everything is carried across their bounds; what is computed again is the same."""
    net = network(Dense(8, 6), Dense(6, 5), recurrent=[Dense(6, 6), None], trained="layer")
    x = spikes_for(net, 9, 2)
    whole, gradients = results("cuda", net, x)
    full, kept = results("cuda", net, x, memory="full", chunk_bytes=4 * 2 * 16)
    _, again = results("cuda", net, x, memory="recompute", chunk_bytes=4 * 2 * 16)
    assert all(torch.equal(a, b) for a, b in zip(whole.spikes, full.spikes, strict=True))
    for name, gradient in gradients.items():
        assert_close(gradient, kept[name], name, 1e-5)
        assert gradient is None or torch.equal(kept[name], again[name]), name


def test_truncated_backpropagation():
    net = network(Dense(8, 6), Dense(6, 5), recurrent=[Dense(6, 6), None], trained="layer")
    check(net, spikes_for(net, 11, 2), truncate=4)


def test_two_halves_are_one_whole():
    """State carried by hand, gradients included: through i, u and the spikes in flight."""
    neuron = LIF(escape_noise=escape_noise.Sigmoid(5.0))
    net = network(Dense(8, 6), Dense(6, 5), neuron=neuron, recurrent=[Dense(6, 6), None])
    x = spikes_for(net, 9, 2)
    whole, gradients = results("cuda", net, x, return_state=True)

    net.zero_grad()
    options = {"seed": 11, "draw": 3, "ids": ids_of(x), "return_state": True, "kernel": "cuda"}
    first = net(x[:5], **options)
    second = net(x[5:], state=first.state, **options)
    joined = whole._replace(
        readout=torch.cat([first.readout, second.readout]),
        counts=[a + b for a, b in zip(first.counts, second.counts, strict=True)],
    )
    loss_of(joined).backward()
    assert_close(whole.readout, joined.readout, "readout", 1e-6)
    assert second.state.step == 9
    for name, parameter in net.named_parameters():
        assert_close(gradients[name], parameter.grad, name)


def test_samples_draw_the_same_noise_in_any_batch():
    neuron = LIF(escape_noise=escape_noise.Sigmoid(5.0))
    net = network(Conv((1, 9), 4, 3, 2), neuron=neuron, recurrent=[Conv((4, 4), 4, 3, 1, 1)])
    x = spikes_for(net, 5, 4)
    ids = ids_of(x)
    with torch.no_grad():
        options = {"seed": 1, "record": True, "kernel": "cuda"}
        whole = net(x, draw=2, ids=ids, **options)
        parts = [net(x[:, part], draw=2, ids=ids[part], **options) for part in ([2, 0], [3, 1])]
        tensor_draw = net(x, draw=torch.tensor(2), ids=ids, **options)
        other = net(x, draw=3, ids=ids, **options)
    assert torch.equal(whole.spikes[0][:, [2, 0, 3, 1]], torch.cat([part.spikes[0] for part in parts], 1))
    assert torch.equal(whole.spikes[0], tensor_draw.spikes[0])
    assert not torch.equal(whole.spikes[0], other.spikes[0])


def test_large_seeds_and_draws():
    """The key's words are 32 bits; the sign of the 64-bit word that carries them must not matter."""
    net = network(Dense(6, 7), neuron=LIF(escape_noise=escape_noise.Sigmoid(5.0)), classes=0)
    x, options = spikes_for(net, 6, 2), {"seed": 0xFFFF_FFF1, "draw": 0xFFFF_FFF2, "record": True}
    expected, got = (net(x, ids=ids_of(x), kernel=k, **options).spikes[0] for k in ("reference", "cuda"))
    assert torch.equal(expected, got)


def test_events_and_their_dense_form_agree():
    net = network(Dense(8, 6))
    x = spikes_for(net, 7, 3)
    batch = EventBatch.from_dense(x.cpu(), ids=ids_of(x).cpu()).to(DEVICE)
    (a, a_gradients), (b, b_gradients) = results("cuda", net, x), results("cuda", net, batch)
    assert torch.equal(a.readout, b.readout)
    for name, gradient in a_gradients.items():
        assert_close(gradient, b_gradients[name], name, 1e-6)


def test_gradient_with_respect_to_the_input():
    net = network(Conv((1, 9), 4, 3, 2), recurrent=[Conv((4, 4), 4, 3, 1, 1)])
    gradients = []
    for kernel in ("reference", "cuda"):
        x = (2 * spikes_for(net, 8, 2)).requires_grad_()
        loss_of(net(x, ids=ids_of(x), kernel=kernel)).backward()
        gradients.append(x.grad)
    assert gradients[0].abs().sum() > 0
    assert_close(*gradients, "input")


def test_bf16_products_keep_spikes_of_bf16_weights():
    """Spikes are exact in bf16: rounded weights give the same spikes; gradients are off by the rounding of dL/dI."""
    net = network(Dense(8, 6), Dense(6, 5), recurrent=[Dense(6, 6), None])
    for parameter in net.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.bfloat16().float()
    x = spikes_for(net, 9, 2)
    (a, exact), (b, rounded) = (results("cuda", net, x, precision=p) for p in ("float32", "bf16"))
    assert torch.equal(a.spikes[0], b.spikes[0])
    for name, gradient in exact.items():
        assert_close(gradient, rounded[name], name, 2e-2)


@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_random_networks(seed):
    """Shapes, modes and parameters drawn at random."""
    generator = torch.Generator().manual_seed(100 + seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    neuron = LIF(pick(*SURROGATES[:6]), pick(*NOISES), pick(*RESETS), pick(False, True), pick(False, True))
    if pick(False, True):
        first, second = Dense(pick(3, 20), pick(1, 17, 34)), None
        second = Dense(first.out_shape, pick(1, 6))
        loops = [Dense(first.out_shape, first.out_shape[0]), None]
    else:
        first = Conv((pick(1, 3), pick(9, 14)), pick(1, 4, 18), pick(1, 3, 4), pick(1, 2), pick(0, 1))
        second = Conv(first.out_shape, pick(2, 8), 2, pick(1, 2), 1)
        loops = [pick(None, Conv(first.out_shape, first.out_shape[0], 3, 1, 1)), None]
    trained = pick((), "layer", "units")
    net = network(first, second, neuron=neuron, recurrent=loops, delay=pick(0, 1), trained=trained, seed=seed)
    check(net, spikes_for(net, pick(9, 11), pick(1, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"precision": "half"}, "float32, tf32, bf16"), ({"neuron": LIF(lambda x, s: s)}, "does not know")],
    ids=["precision", "surrogate"],
)
def test_mistakes_are_named(options, message):
    net = network(Dense(4, 3), neuron=options.pop("neuron", None))
    x = spikes_for(net, 3, 1)
    with pytest.raises(UserError, match=message):
        net(x, kernel="cuda", **options)


def test_float64_is_left_to_the_reference():
    net = network(Dense(4, 3)).double()
    x = spikes_for(net, 3, 1)
    with pytest.raises(UserError, match="float64"):
        net(x, kernel="cuda")
