"""Counter-based random numbers: known answers, uniformity, and addresses that mean what they say."""

import pytest
import torch

from surgrad.kernels.philox import NoiseKey, philox4x32, uniform

# philox4x32-10 of the Random123 distribution (kat_vectors): counter, key, result
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_known_answers(counter, key, result):
    out = philox4x32(tuple(torch.tensor([w]) for w in words(counter)), tuple(words(key)))
    assert [int(w) for w in out] == words(result)


def test_a_number_is_the_word_at_its_address():
    key, ids = NoiseKey(seed=11, draw=12, layer=3), torch.tensor([5, 2**31 + 7])
    numbers = uniform(key, 9, ids, (6,), torch.float64)
    for b, sample in enumerate(ids.tolist()):
        for n in range(6):
            counter = tuple(torch.tensor([c]) for c in (n // 4, 9, sample, 3))
            word = int(philox4x32(counter, (11, 12))[n % 4])
            assert float(numbers[b, n]) == ((word >> 9) + 0.5) * 2.0**-23


def test_channels_run_fastest():
    key, ids = NoiseKey(1), torch.arange(3)
    flat = uniform(key, 4, ids, (5 * 2 * 3,))
    for c in range(5):
        for y in range(2):
            for x in range(3):
                number = (y * 3 + x) * 5 + c
                assert torch.equal(uniform(key, 4, ids, (5, 2, 3))[:, c, y, x], flat[:, number])


def test_numbers_do_not_depend_on_the_batch_or_the_dtype():
    key, ids = NoiseKey(1, 2, 3), torch.tensor([4, 9, 1, 30])
    whole = uniform(key, 7, ids, (10,))
    assert torch.equal(uniform(key, 7, ids.flip(0), (10,)), whole.flip(0))
    assert torch.equal(uniform(key, 7, ids[2:3], (10,)), whole[2:3])
    # neither on the size of the layer above its own units, nor on precision
    assert torch.equal(uniform(key, 7, ids, (8,)), whole[:, :8])
    assert torch.equal(uniform(key, 7, ids, (10,), torch.float64).float(), whole)


@pytest.mark.parametrize(
    "other",
    [
        lambda ids: uniform(NoiseKey(2, 1, 1), 1, ids, (64,)),
        lambda ids: uniform(NoiseKey(1, 2, 1), 1, ids, (64,)),
        lambda ids: uniform(NoiseKey(1, 1, 2), 1, ids, (64,)),
        lambda ids: uniform(NoiseKey(1, 1, 1), 2, ids, (64,)),
        lambda ids: uniform(NoiseKey(1, 1, 1), 1, ids + 1000, (64,)),
    ],
    ids=["seed", "draw", "layer", "step", "sample"],
)
def test_every_part_of_the_address_matters(other):
    ids = torch.arange(400)
    x, y = uniform(NoiseKey(1, 1, 1), 1, ids, (64,)).flatten(), other(ids).flatten()
    assert (x != y).float().mean() > 0.999
    correlation = torch.corrcoef(torch.stack([x, y]))[0, 1]
    assert abs(float(correlation)) < 4.5 / len(x) ** 0.5


def test_numbers_are_uniform_and_never_0_or_1():
    n = 200_000
    x = uniform(NoiseKey(7), 0, torch.arange(n // 100), (100,)).flatten()
    assert x.min() > 0
    assert x.max() < 1
    counts = torch.histc(x, 64, 0, 1)
    chi_square = float(((counts - n / 64) ** 2 / (n / 64)).sum())
    # 63 degrees of freedom: mean 63, variance 126
    assert abs(chi_square - 63) < 5 * 126**0.5
