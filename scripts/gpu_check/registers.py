"""Compiles the kernels for Ampere, Hopper and Blackwell, without a GPU, and prints what they need.

python3 -m scripts.gpu_check.registers

Registers of a thread, in brackets bytes spilled, forward and adjoint: of a layer with fixed time constants, and with
trained ones of each neuron. Minutes on one core.
"""

from surgrad.kernels.contract import connection_spec
from surgrad.kernels.gpu.compile import compiled, resources
from surgrad.kernels.gpu.layer import Population
from surgrad.network.connections import Conv, Dense
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF, AdaptiveLIF

CAPABILITIES = (80, 90, 100)
BATCH = 400
NOISY = Sigmoid(10.0)

#: Published layers and dense ones.
LAYERS = {
    **{f"{c} x {n}, convolution": Conv((c, n), c, 5, 1, 2) for c, n in ((16, 68), (32, 21), (64, 5))},
    **{f"{n}, dense": Dense(n, n) for n in (64, 128, 256)},
    "1024, without recurrence": None,
}


def main() -> None:
    """Print the table."""
    print("| layer | kernel | " + " | ".join(f"{c // 10}.{c % 10}" for c in CAPABILITIES) + " | shared memory, KiB |")
    print("|---" * (3 + len(CAPABILITIES)) + "|")
    for name, loop in LAYERS.items():
        units = (1024,) if loop is None else loop.out_shape
        recurrent = connection_spec(loop, "loop")
        for what, neuron, decays in (
            ("fixed", LIF(escape_noise=NOISY), False),
            ("trained", LIF(escape_noise=NOISY), True),
            ("adaptive", AdaptiveLIF(escape_noise=NOISY), True),
        ):
            population = Population(units, neuron, recurrent, 0, BATCH, "float32")
            found = [compiled(population, capability, decays) for capability in CAPABILITIES]
            for kernel in ("forward", "adjoint"):
                used = [resources(each[kernel]) for each in found]
                cells = [f"{r.registers}" + (f" ({r.spilled})" if r.spilled else "") for r in used]
                shared = max(r.shared for r in used) / 1024
                print(f"| {name} | {what}, {kernel} | " + " | ".join(cells) + f" | {shared:g} |", flush=True)


if __name__ == "__main__":
    main()
