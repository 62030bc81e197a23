"""Random manifolds: the published samples, their smoothness, their shape."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from surgrad.datasets.sources.randman import Manifold, Randman, standardize

GOLDEN = Path(__file__).parents[1] / "reference" / "randman.npz"


def test_equals_the_published_generator_sample_by_sample():
    golden = np.load(GOLDEN)
    steps, units, labels = Randman(**json.loads(str(golden["params"]))).steps()
    assert np.array_equal(steps, golden["times"])
    assert np.array_equal(units, golden["units"])
    assert np.array_equal(labels, golden["labels"])


SEVERAL = Path(__file__).parent / "reference" / "randman_dimensions.npz"


@pytest.mark.parametrize("case", ["dim2", "dim3", "dim2_spikes2", "dim4_smooth"])
def test_equals_the_formula_term_by_term_in_several_dimensions(case):
    """The traces come from a literal transcription of the sums, the constant term of every dimension zero."""
    golden = np.load(SEVERAL)
    steps, units, labels = Randman(**json.loads(str(golden[f"{case}_params"]))).steps()
    assert np.array_equal(steps, golden[f"{case}_times"])
    assert np.array_equal(units, golden[f"{case}_units"])
    assert np.array_equal(labels, golden[f"{case}_labels"])


def test_no_dimension_has_a_constant_term():
    """Where the first harmonic does not move (k = 0) nothing is added: f is a product of zero-offset sums."""
    parameters = Manifold(nb_units=5, dim=3, alpha=2.0, seed=1).parameters()
    assert (parameters[:, :, 0, 0] == 0).all()
    assert (parameters[:, :, 0, 1:] != 0).all()


def test_manifold_equals_its_formula():
    manifold = Manifold(nb_units=3, dim=2, alpha=1.5, seed=4)
    x = torch.rand(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = manifold.parameters().double()
    k = torch.arange(manifold.nb_frequencies, dtype=torch.float64)
    spectrum = 1 / ((k + 1) ** 1.5 + 1)
    expected = torch.ones(7, 3, dtype=torch.float64)
    for e in range(3):
        for d in range(2):
            wave = torch.sin(2 * torch.pi * (k * x[:, d, None] * p[e, d, 1] + p[e, d, 2]))
            expected[:, e] *= (p[e, d, 0] * spectrum * wave).sum(1)
    torch.testing.assert_close(manifold(x).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 1000), (1.0, 1000), (2.0, 32), (3.0, 10)])
def test_number_of_frequencies(alpha, expected):
    assert abs(Manifold(1, 1, alpha, 0).nb_frequencies - expected) <= 1


def test_larger_alpha_is_smoother():
    x = torch.linspace(0, 1, 400)[:, None]
    roughness = [
        standardize(Manifold(30, 1, alpha, 3)(x)).diff(dim=0).abs().sum(0).mean().item() for alpha in (1, 2, 4)
    ]
    assert roughness[0] > 1.5 * roughness[1] > 1.5**2 * roughness[2]


def test_dataset_has_the_published_shape():
    randman = Randman(nb_classes=4, nb_units=7, nb_samples=50, nb_spikes=2, alpha=2.0)
    dataset = randman.dataset()
    assert len(dataset) == 200
    assert np.bincount(dataset.labels).tolist() == [50] * 4
    assert (dataset.counts() == 2).all()
    assert randman.dt == pytest.approx(2e-3)
    (batch,) = dataset.batches(200, dt=randman.dt, nb_steps=randman.nb_steps)
    steps, units, labels = randman.steps()
    expected = torch.zeros(100, 200, 7)
    expected[steps, np.arange(200)[:, None], units] = 1
    assert torch.equal(batch.dense(), expected)
    assert batch.labels.tolist() == labels.tolist()
    assert batch.steps.max() in (49, 50)  # step_frac of the window is used
    assert dataset.dropped == 0


def test_splits_share_out_all_samples_once():
    parts = Randman(nb_classes=3, nb_samples=50, alpha=2.0).splits()
    assert [len(p) for p in parts] == [120, 15, 15]
    assert sorted(np.concatenate([p.ids for p in parts]).tolist()) == list(range(150))


def test_seed_decides_everything_and_global_state_nothing():
    kwargs = {"nb_classes": 2, "nb_samples": 20, "alpha": 2.0}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, other, two = (Randman(seed=seed, **kwargs).steps()[0] for seed in (5, 6, 5))  # drawn anew: one set is kept
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_what_is_kept_of_a_set_cannot_be_changed():
    randman = Randman(nb_classes=2, nb_samples=5)
    first = randman.steps()
    kept = [part.copy() for part in first]
    for part in first:
        part += 1
    assert all(np.array_equal(*parts) for parts in zip(kept, randman.steps(), strict=True))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"nb_classes": 0}, "nb_classes"),
        ({"alpha": 0.0}, "alpha"),
        ({"step_frac": 1.5}, "step_frac"),
    ],
)
def test_wrong_settings_are_named(change, word):
    with pytest.raises(ValueError, match=word):
        Randman(**change)


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="fractions"):
        Randman(nb_samples=2).splits((0.5, 0.1, 0.1))
