"""Spyx: JAX, compiled as a whole; the linear layers over all steps at once, the neurons by `spyx.nn.run`."""

from collections.abc import Callable

import jax
import optax
import spyx
from flax import nnx
from spyx import axn, nn

from benchmarks.problems import BETA, DECAY_MEM, LIFScan, LinearLIF, Problem, Recurrent

MODEL = "LIF (u alone), XLA scan"


def version() -> str:
    return spyx.__version__


def _lif(n: int, kind: type = nn.LIF) -> nnx.Module:
    return kind((n,), beta=DECAY_MEM, activation=axn.superspike(BETA), rngs=nnx.Rngs(0))


def _device(problem: Problem, *arrays) -> list[jax.Array]:
    device = jax.devices("gpu" if problem.device == "cuda" else "cpu")[0]
    return [jax.device_put(array, device) for array in arrays]


def linear_lif(problem: LinearLIF) -> Callable[[], object]:
    x, weight = _device(problem, *problem.inputs())
    neuron = _lif(problem.neurons)

    @jax.jit
    def gradient(weight: jax.Array, x: jax.Array) -> jax.Array:
        return jax.value_and_grad(lambda w: nn.run(neuron, x @ w.T)[0].sum())(weight)

    return lambda: jax.block_until_ready(gradient(weight, x))


def lif_scan(problem: LIFScan) -> Callable[[], object]:
    (current,) = _device(problem, problem.inputs())
    neuron = _lif(problem.neurons)

    @jax.jit
    def gradient(current: jax.Array) -> jax.Array:
        return jax.value_and_grad(lambda c: nn.run(neuron, c)[0].sum())(current)

    return lambda: jax.block_until_ready(gradient(current))


def recurrent(problem: Recurrent) -> Callable[[], object]:
    _, n1, n2, n3 = problem.sizes
    x, y, *weights = _device(problem, *problem.inputs(), *problem.weights())
    neurons = [_lif(n1, nn.RLIF), _lif(n2, nn.RLIF)]
    graphs, states = zip(*(nnx.split(neuron) for neuron in neurons), strict=True)
    readout = nn.LI((n3,), beta=DECAY_MEM, rngs=nnx.Rngs(0))
    w1, r1, w2, r2, w3 = weights
    parameters = {"forward": [w1, w2, w3], "recurrent": [r1.T, r2.T]}
    optimizer = optax.adam(problem.rate)

    def loss(parameters: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        spikes = x
        for w, r, graph, state in zip(parameters["forward"], parameters["recurrent"], graphs, states, strict=False):
            leaves, structure = jax.tree.flatten(state)  # beta, recurrent_w
            neuron = nnx.merge(graph, jax.tree.unflatten(structure, [leaves[0], r]))
            spikes, _ = nn.run(neuron, spikes @ w.T)
        membranes, _ = nn.run(readout, spikes @ parameters["forward"][2].T)
        return optax.softmax_cross_entropy_with_integer_labels(membranes.max(0), y).mean()

    @jax.jit
    def train(parameters: dict, moments: object, x: jax.Array, y: jax.Array) -> tuple:
        gradient = jax.grad(loss)(parameters, x, y)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(parameters, updates), moments

    held = [parameters, optimizer.init(parameters)]

    def step() -> None:
        held[:] = jax.block_until_ready(train(*held, x, y))

    return step
