"""Compiles the kernels for Ampere, Hopper and Blackwell, without a GPU, and prints what they need.

python3 -m scripts.gpu_check.registers

Registers of a thread and, in brackets, bytes of them spilled, forward / adjoint: of a layer with fixed time constants,
with trained ones of each neuron, of adaptive neurons, and of recurrent delays of axons; then those of the products of
byte spikes, forward / by the weight. Three minutes on one core.
"""

from triton.compiler import CompiledKernel

from surgrad.errors import known
from surgrad.kernels.contract import connection_spec
from surgrad.kernels.gpu.compile import compiled, compiled_product, resources
from surgrad.kernels.gpu.layer import Population
from surgrad.network.connections import Conv, Dense
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF

CAPABILITIES = (80, 90, 100)
DT = 2e-3  # s
NOISY = Sigmoid(10.0)

#: Published layers and dense ones.
LAYERS = {
    **{f"{c} x {n}, convolution": Conv((c, n), c, 5, 1, 2) for c, n in ((16, 68), (32, 21), (64, 5))},
    **{f"{n}, dense": Dense(n, n) for n in (64, 128, 256)},
    "1024, without recurrence": None,
}
#: Samples of a call; of one in which programs of small dense layers have a sample each.
BATCH, SMALL_BATCH = 400, 128

#: What byte spikes pass through: the published convolutions, their loops, and dense layers.
PRODUCTS = (
    Conv((1, 700), 16, 21, 10), Conv((16, 68), 32, 7, 3), Conv((32, 21), 64, 7, 3), Conv((16, 68), 16, 5, 1, 2),
    Conv((32, 21), 32, 5, 1, 2), Conv((64, 5), 64, 5, 1, 2), Dense(700, 128), Dense(320, 20),
)  # fmt: skip


def main() -> None:
    """Print both tables."""
    _head("layer", "constants")
    for name, loop in LAYERS.items():
        _rows(name, loop, BATCH)
    for units in (64, 128):
        _rows(f"{units}, dense, one sample", Dense(units, units), SMALL_BATCH)
    print()
    _head("product of byte spikes")
    for layer in PRODUCTS:
        connection = known("the connection", connection_spec(layer, "layer"))
        cells = [_cell(compiled_product(connection, capability)) for capability in CAPABILITIES]
        what = f", kernel {layer.kernel_size[0]}, stride {layer.stride[0]}" if isinstance(layer, Conv) else ""
        print(f"| {_size(layer.in_shape)} to {_size(layer.out_shape)}{what} | " + " | ".join(cells) + " |", flush=True)


def _rows(name: str, loop: Conv | Dense | None, nb_samples: int) -> None:
    """The rows of one layer."""
    units = (1024,) if loop is None else loop.out_shape
    recurrent = connection_spec(loop, "loop")
    kinds = [
        ("fixed", LIF(escape_noise=NOISY), False, recurrent),
        ("trained", LIF(escape_noise=NOISY), True, recurrent),
        ("adaptive", AdaptiveLIF(escape_noise=NOISY), True, recurrent),
    ]
    if isinstance(loop, Dense):
        delayed = connection_spec(AxonalDelays(units, units[0], 25 * DT), "loop", DT)
        kinds.append(("delays", LIF(escape_noise=NOISY), True, delayed))
    for what, neuron, decays, returning in kinds:
        population = Population(units, neuron, returning, 0, nb_samples, "float32")
        cells = [_cell(compiled(population, capability, decays)) for capability in CAPABILITIES]
        print(f"| {name} | {what} | " + " | ".join(cells) + " |", flush=True)


def _head(*columns: str) -> None:
    print("| " + " | ".join([*columns, *(f"{c // 10}.{c % 10}" for c in CAPABILITIES)]) + " |")
    print("|---" * (len(columns) + len(CAPABILITIES)) + "|")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _cell(kernels: dict[str, CompiledKernel]) -> str:
    used = [resources(kernels[kernel]) for kernel in ("forward", "adjoint")]
    return " / ".join(f"{r.registers}" + (f" ({r.spilled})" if r.spilled else "") for r in used)


if __name__ == "__main__":
    main()
