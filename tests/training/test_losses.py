"""Cross entropies against their definition; spike-train distances against their closed form."""

import math

import pytest
import torch

from surgrad.errors import UserError
from surgrad.training.losses import (
    LOSSES,
    SpikeTrainL2,
    VanRossum,
    build_loss,
    causal_convolution,
    double_exponential_kernel,
)

T, B, C = 11, 6, 4


@pytest.fixture
def readout():
    return torch.randn(T, B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.randint(C, (B,), generator=torch.Generator().manual_seed(1))


def reduced(name, y):
    """Scores of one sample (T, C), by loops."""
    column = [[float(y[t, c]) for t in range(len(y))] for c in range(y.shape[1])]
    if name == "mot_ce":
        return [max(values) for values in column]
    if name == "sum_ce":
        return [math.fsum(values) for values in column]
    if name == "mean_ce":
        return [math.fsum(values) / len(values) for values in column]
    if name == "last_ce":
        return [values[-1] for values in column]
    z = [0.0] * y.shape[1]
    for t in range(len(y)):
        total = math.fsum(math.exp(float(v)) for v in y[t])
        z = [a + math.exp(float(v)) / total for a, v in zip(z, y[t], strict=True)]
    return z


@pytest.mark.parametrize("name", LOSSES)
def test_cross_entropy_is_its_definition(name, readout, labels):
    loss = build_loss(name)
    expected, right = 0.0, 0
    for b in range(B):
        z = reduced(name, readout[:, b])
        expected += math.log(math.fsum(map(math.exp, z))) - z[labels[b]]
        right += z.index(max(z)) == labels[b]
    assert float(loss(readout, labels)) == pytest.approx(expected / B, rel=1e-12)
    assert float(loss.accuracy(readout, labels)) == pytest.approx(right / B)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("first_step", [0, 4, 10, 50])
def test_the_first_steps_neither_train_nor_decide(name, first_step, readout, labels):
    """A readout that ends before counts with its last step."""
    loss, kept = build_loss(name, first_step=first_step), readout[min(first_step, T - 1) :]
    torch.testing.assert_close(loss(readout, labels), build_loss(name)(kept, labels))
    assert torch.equal(loss.predictions(readout), build_loss(name).predictions(kept))
    readout.requires_grad_()
    loss(readout, labels).backward()
    assert not readout.grad[: min(first_step, T - 1)].any()


@pytest.mark.parametrize("name", LOSSES)
def test_smoothed_labels_are_a_mixture_with_all_classes(name, readout, labels):
    """-sum_c p_c log q_c with p = 1 - e + e / C for the label and e / C for the others."""
    e, plain = 0.3, build_loss(name)
    each = [plain(readout, torch.full_like(labels, c)) for c in range(C)]
    expected = (1 - e) * plain(readout, labels) + e / C * sum(each)
    torch.testing.assert_close(build_loss(name, label_smoothing=e)(readout, labels), expected)


@pytest.mark.parametrize("options", [{"first_step": -1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_wrong_options_of_a_loss_are_named(options):
    with pytest.raises(UserError, match="0 or more steps, and 0 to below 1"):
        build_loss("mean_ce", **options)


@pytest.mark.parametrize("name", LOSSES)
def test_prediction_maximises_the_trained_probability(name, readout, labels):
    loss = build_loss(name)
    per_class = torch.stack([loss(readout[:, [b]], torch.tensor([c])) for b in range(B) for c in range(C)])
    assert torch.equal(per_class.view(B, C).argmin(1), loss.predictions(readout))
    torch.testing.assert_close(-per_class.view(B, C), loss.scores(readout).log_softmax(-1))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name, readout, labels):
    loss = build_loss(name)
    assert torch.autograd.gradcheck(lambda y: loss(y, labels), readout.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_finite_for_huge_readouts(name, labels):
    y = torch.full((T, B, C), 1e4)
    y[..., 0] = -1e4
    loss = build_loss(name)(y.requires_grad_(), labels)
    loss.backward()
    assert loss.isfinite()
    assert y.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((T, C), torch.zeros(B, dtype=torch.long), r"\(11, 4\) must be \(T, B, classes\)"),
        ((0, B, C), torch.zeros(B, dtype=torch.long), "none of them 0"),
        ((B, T, C), torch.zeros(B, dtype=torch.long), r"labels of shape \(6,\)"),
        ((T, B, C), torch.zeros(B), "float32"),
        ((T, B, C), torch.full((B,), C), "0 to 3"),
        ((T, B, C), torch.full((B,), -1), "from -1"),
    ],
)
def test_wrong_shapes_and_labels_are_named(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        build_loss("mot_ce")(torch.zeros(shape), labels)


def test_unknown_loss_names_the_allowed():
    with pytest.raises(UserError, match="loss_type='mse' is unknown; allowed: mot_ce"):
        build_loss("mse")


def test_causal_convolution_is_the_double_sum():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(9, dtype=torch.float64, generator=generator)
    x = torch.randn(9, 2, 3, dtype=torch.float64, generator=generator)
    expected = torch.stack([sum(kernel[t - k] * x[k] for k in range(t + 1)) for t in range(9)])
    torch.testing.assert_close(causal_convolution(kernel, x), expected)


def test_kernel_has_the_closed_form_peak():
    tau_m, tau_s, nb_steps, dt = 10e-3, 5e-3, 100_001, 1e-6
    kernel = double_exponential_kernel(nb_steps, dt, tau_m, tau_s, dtype=torch.float64)
    peak_time = tau_m * tau_s / (tau_m - tau_s) * math.log(tau_m / tau_s)
    assert int(kernel.argmax()) * dt == pytest.approx(peak_time, rel=1e-3)
    assert float(kernel.max()) == pytest.approx(0.2 * 0.25, rel=1e-6)
    assert float(kernel.sum() * dt) == pytest.approx(0.2 * (tau_m - tau_s), rel=1e-3)


def test_van_rossum_of_one_spike_is_the_energy_of_the_kernel():
    nb_steps, units = 4000, 5
    target = torch.zeros(nb_steps, units, dtype=torch.float64)
    target[0, 2] = 1
    dt, tau_m, tau_s, eps0 = 1e-4, 10e-3, 5e-3, 0.2
    distance = VanRossum(dt, tau_m, tau_s, eps0)(torch.zeros_like(target), target)
    # integral of eps^2 over t >= 0
    energy = eps0**2 * (tau_m / 2 + tau_s / 2 - 2 * tau_m * tau_s / (tau_m + tau_s)) / dt
    assert float(distance) == pytest.approx(energy / 2 / units, rel=1e-3)
    published = VanRossum(1e-3, 10e-3, 5e-3, 0.2)(torch.zeros_like(target), target)
    assert float(VanRossum()(torch.zeros_like(target), target)) == float(published)


@pytest.mark.parametrize("distance", [VanRossum(), SpikeTrainL2()])
def test_distances_are_zero_symmetric_and_quadratic(distance):
    generator = torch.Generator().manual_seed(0)
    a, b = ((torch.rand(50, 7, generator=generator) < 0.2).double() for _ in range(2))
    zero = torch.zeros_like(a)
    assert float(distance(a, a)) == 0
    torch.testing.assert_close(distance(a, b), distance(b, a))
    torch.testing.assert_close(distance(2 * a, zero), 4 * distance(a, zero))
    batch = torch.stack([a, b], 1)
    torch.testing.assert_close(distance(batch, zero), torch.stack([distance(a, zero), distance(b, zero)]))


def test_l2_counts_wrong_bins_also_for_bytes():
    spikes = torch.zeros(10, 4, dtype=torch.uint8)
    target = spikes.clone()
    spikes[2, 1] = target[3, 1] = target[9, 0] = 1
    assert float(SpikeTrainL2()(spikes, target)) == pytest.approx(3 / 2 / 4)


def test_trains_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="must both be"):
        SpikeTrainL2()(torch.zeros(10, 4), torch.zeros(10, 5))
