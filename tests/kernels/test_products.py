"""Matrix products of the CPU kernel against PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from surgrad.kernels.cpu import products
from surgrad.network.connections import Dense

needs_compiler = pytest.mark.skipif(products._library() is None, reason="no C++ compiler: install g++ or clang++")


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("vectors", ["avx2", "avx512"])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((500, 16, 128), 128), ((7, 211, 48), 80), ((5, 208, 112), 128), ((301, 1040), 336), ((2, 3, 16), 16)],
)
def test_linear_and_its_gradients_equal_pytorch(shape, outputs, vectors, threads, monkeypatch):
    monkeypatch.setattr(products, "SMALLEST", 0)
    monkeypatch.setattr(products, "_vectors", lambda: vectors)
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(*shape, generator=g), torch.randn(outputs, shape[-1], generator=g)
    cotangent = torch.randn(*shape[:-1], outputs, generator=g)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = []
    for function in (products.linear, F.linear):
        leaves = [v.clone().requires_grad_() for v in (x, w)]
        y = function(*leaves)
        y.backward(cotangent)
        results.append([y.detach(), *(v.grad for v in leaves)])
    torch.set_num_threads(before)
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x[..., :15]])
def test_what_the_kernel_cannot_do_is_done_by_pytorch(change):
    g = torch.Generator().manual_seed(0)
    x, w = (change(torch.randn(512, n, 32, generator=g)) for n in (16, 1))
    w = w[:24, 0].contiguous()
    assert torch.equal(products.linear(x, w), F.linear(x, w))


def test_dense_layers_use_it_and_train():
    dense = Dense((4, 32), 64)
    torch.nn.init.normal_(dense.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(600, 4, 32, generator=torch.Generator().manual_seed(1))
    dense(x).square().sum().backward()
    expected = 2 * (x.flatten(1) @ dense.weight.detach().T).T @ x.flatten(1)
    assert (dense.weight.grad - expected).abs().max() <= 1e-5 * expected.abs().max()
