"""What is computed: sizes, inputs and counted work of every item. The same arrays for every framework."""

from dataclasses import asdict, dataclass

import numpy as np

TAU_MEM, TAU_SYN, DT = 20e-3, 10e-3, 2e-3  # s
DECAY_MEM, DECAY_SYN = float(np.exp(-DT / TAU_MEM)), float(np.exp(-DT / TAU_SYN))
BETA = 10.0  # slope of the surrogate
BYTES_PER_NEURON_STEP = (
    24  # write current, read it, write spikes, read their gradient, write and read that of the current
)


@dataclass(frozen=True)
class Work:
    """Counted work of one step: products that must be dense, products with spikes on one side, traffic to memory."""

    dense_flops: float = 0.0
    spike_flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Problem:
    """An item at one size. ``device`` is "cpu" or "cuda"; ``threads`` of the CPU."""

    batch: int
    steps: int
    device: str
    threads: int

    def describe(self) -> dict:
        """What identifies this problem in the output."""
        return asdict(self)

    def random(self, *shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
        """Normal numbers of standard deviation ``scale``, float32."""
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def spikes(self, *shape: int, density: float, seed: int = 1) -> np.ndarray:
        """Bernoulli spikes, float32 of 0/1."""
        return (np.random.default_rng(seed).random(shape, dtype=np.float32) < density).astype(np.float32)

    def labels(self, classes: int) -> np.ndarray:
        return np.random.default_rng(2).integers(classes, size=self.batch)


@dataclass(frozen=True)
class LinearLIF(Problem):
    """A linear layer N -> N and LIF neurons; gradient of the summed spikes with respect to the weights."""

    neurons: int = 512
    density: float = 0.0  # of spikes at the input; 0: a dense input of real numbers

    def work(self) -> Work:
        rows = self.steps * self.batch
        return Work(4.0 * rows * self.neurons**2, 0.0, BYTES_PER_NEURON_STEP * rows * self.neurons)

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """x (T, B, N) and W (N_out, N_in)."""
        shape = (self.steps, self.batch, self.neurons)
        x = self.spikes(*shape, density=self.density) if self.density else self.random(*shape)
        scale = 4.0 / np.sqrt(self.neurons * (self.density or 1.0))
        return x, self.random(self.neurons, self.neurons, scale=scale, seed=3)


@dataclass(frozen=True)
class LIFScan(Problem):
    """LIF neurons driven by a given current; gradient of the summed spikes with respect to the current."""

    neurons: int = 1024

    def work(self) -> Work:
        return Work(0.0, 0.0, BYTES_PER_NEURON_STEP * self.steps * self.batch * self.neurons)

    def inputs(self) -> np.ndarray:
        """I (T, B, N)."""
        return self.random(self.steps, self.batch, self.neurons, scale=4.0)


@dataclass(frozen=True)
class Recurrent(Problem):
    """700 inputs, two recurrent LIF layers of 128, a leaky readout of 20; one Adam step on a cross entropy."""

    density: float = 0.02

    sizes = (700, 128, 128, 20)
    rate = 1e-6  # of Adam: so small that activity stays as it is

    def work(self) -> Work:
        n0, n1, n2, n3 = self.sizes
        rows = 2.0 * self.steps * self.batch
        adjoint = n1 * n1 + n2 * n2 + n1 * n2 + n2 * n3
        return Work(rows * adjoint, rows * (2 * adjoint + 2 * n0 * n1))

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Spikes (T, B, 700) and labels (B,)."""
        return self.spikes(self.steps, self.batch, self.sizes[0], density=self.density), self.labels(self.sizes[-1])

    def weights(self) -> list[np.ndarray]:
        """W1, R1, W2, R2, readout; each (out, in)."""
        n0, n1, n2, n3 = self.sizes
        shapes = ((n1, n0, 10.0), (n1, n1, 2.0), (n2, n1, 10.0), (n2, n2, 2.0), (n3, n2, 1.0))
        return [self.random(n, m, scale=s / np.sqrt(m), seed=k) for k, (n, m, s) in enumerate(shapes)]


@dataclass(frozen=True)
class ConvSNNStep(Problem):
    """One training step (forward, loss, backward, Adam) of the deep recurrent ConvSNN of Gygax & Zenke (2025)."""

    stochastic: bool = False
    density: float = 0.02  # of input spikes
    gain: float = 7.75  # of the first layer's weights: sets the hidden activity

    filters, kernels, strides, rec_kernel, classes, inputs_ = (16, 32, 64), (21, 7, 7), (10, 3, 3), 5, 20, 700
    rate = 1e-6  # of Adam: so small that activity stays as it is

    def shapes(self) -> list[tuple[int, int]]:
        """(channels, length) of the input and of every layer."""
        shapes = [(1, self.inputs_)]
        for filters, kernel, stride in zip(self.filters, self.kernels, self.strides, strict=True):
            shapes.append((filters, (shapes[-1][1] - kernel) // stride + 1))
        return shapes

    def work(self) -> Work:
        shapes, adjoint, first = self.shapes(), 0, 0
        for k, kernel in enumerate(self.kernels):
            (below, _), (filters, length) = shapes[k], shapes[k + 1]
            products = length * filters * below * kernel
            first = first or products
            adjoint += (products if k else 0) + length * filters * filters * self.rec_kernel
        adjoint += shapes[-1][0] * shapes[-1][1] * self.classes
        rows = 2.0 * self.steps * self.batch
        return Work(rows * adjoint, rows * (2 * adjoint + 2 * first))

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Spikes (T, B, 1, 700) and labels (B,)."""
        return self.spikes(self.steps, self.batch, 1, self.inputs_, density=self.density), self.labels(self.classes)

    def weights(self) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Feed-forward and recurrent kernels of every layer (out, in, k); readout (classes, units)."""
        shapes, forward, recurrent = self.shapes(), [], []
        for k, kernel in enumerate(self.kernels):
            below, filters = shapes[k][0], shapes[k + 1][0]
            scale = (6.2 if k else self.gain) / np.sqrt(below * kernel)
            forward.append(self.random(filters, below, kernel, scale=scale, seed=10 + k))
            scale = 0.5 / np.sqrt(filters * self.rec_kernel)
            recurrent.append(self.random(filters, filters, self.rec_kernel, scale=scale, seed=20 + k))
        units = shapes[-1][0] * shapes[-1][1]
        return forward, recurrent, self.random(self.classes, units, scale=1 / np.sqrt(units), seed=30)


@dataclass(frozen=True)
class Matching(Problem):
    """One epoch of spike-train matching, 200-200-200 neurons; ``batch`` is the number of trials."""

    neurons: int = 200

    def work(self) -> Work:
        product = 2.0 * self.steps * self.neurons**2
        return Work(2 * product * self.batch, product * (2 + self.batch))

    @property
    def stochastic(self) -> bool:
        return self.batch > 1

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Input spikes (T, N) at 50 Hz, target spikes (T, N) at 274 Hz; steps of 1 ms."""
        shape = (self.steps, self.neurons)
        return self.spikes(*shape, density=0.05), self.spikes(*shape, density=0.274, seed=5)
