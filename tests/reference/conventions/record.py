"""Records one layer of neurons in other libraries, a file for each: what docs/conventions.md maps to ours.

Made with norse 1.1.0, snntorch 1.0.0, spikingjelly 2.0.0, sinabs 3.1.3, spyx 1.0.0 (jax 0.10.2), torch 2.13.0 on a CPU:

    python tests/reference/conventions/record.py tests/reference/conventions

Each file holds ``current`` (T, N), what the neurons are driven by, ``spikes`` and ``membrane`` (T, N) as the library
returns them after every step, and, where its surrogate is one of ours, ``cotangent`` c and ``gradient`` = d(c . spikes)
/ d current. None of these libraries is needed to run the tests.
"""

import sys
from pathlib import Path

import numpy as np

T, N = 60, 6


def drive(mean: float) -> np.ndarray:
    """Noisy currents that rise from neuron to neuron."""
    rng = np.random.default_rng(8)
    return (mean * np.linspace(0.6, 1.8, N) * rng.gamma(2.0, 0.5, (T, N))).astype(np.float32)


def in_torch(step, state, mean: float, *, gradient: bool = True) -> dict[str, np.ndarray]:
    """``step(drive, state)`` returns spikes, membrane and the next state, each for a row of neurons."""
    import torch

    current = torch.tensor(drive(mean), requires_grad=gradient)
    spikes, membranes = [], []
    for row in current:
        s, u, state = step(row[None], state)
        spikes.append(s[0])
        membranes.append(u[0])
    spikes, membranes = torch.stack(spikes), torch.stack(membranes)
    found = {"current": current, "spikes": spikes, "membrane": membranes}
    if gradient:
        cotangent = torch.randn(T, N, generator=torch.Generator().manual_seed(1))
        found["cotangent"] = cotangent
        found["gradient"] = torch.autograd.grad((spikes * cotangent).sum(), current)[0]
    return {name: x.detach().numpy() for name, x in found.items()}


def norse():
    import torch
    from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step

    p = LIFParameters(
        tau_syn_inv=torch.tensor(1 / 5e-3),
        tau_mem_inv=torch.tensor(1 / 10e-3),
        v_th=torch.tensor(1.0),
        alpha=torch.tensor(20.0),
    )

    def step(row, state):
        s, state = lif_feed_forward_step(row, state, p, dt=1e-3)
        return s, state.v, state

    yield "norse_lif", in_torch(step, LIFFeedForwardState(torch.zeros(1, N), torch.zeros(1, N)), 0.5)


def snntorch():
    import snntorch
    import torch

    for reset in ("subtract", "zero"):
        leaky = snntorch.Leaky(beta=0.9, spike_grad=snntorch.surrogate.fast_sigmoid(slope=25), reset_mechanism=reset)

        def step(row, mem, leaky=leaky):
            s, mem = leaky(row, mem)
            return s, mem, mem

        yield f"snntorch_leaky_{reset}", in_torch(step, torch.zeros(1, N), 0.25)
    synaptic = snntorch.Synaptic(alpha=0.8, beta=0.9, spike_grad=snntorch.surrogate.fast_sigmoid(slope=25))

    def step(row, state):
        s, syn, mem = synaptic(row, *state)
        return s, mem, (syn, mem)

    yield "snntorch_synaptic", in_torch(step, (torch.zeros(1, N), torch.zeros(1, N)), 0.08)


def spikingjelly():
    from spikingjelly.activation_based import neuron, surrogate

    for name, v_reset in (("hard", 0.0), ("soft", None)):
        node = neuron.LIFNode(
            tau=10.0, v_reset=v_reset, surrogate_function=surrogate.Sigmoid(alpha=4.0), detach_reset=True
        )

        def step(row, state, node=node):
            s = node(row)
            return s, node.v, state

        yield f"spikingjelly_lif_{name}", in_torch(step, None, 1.5)


def sinabs():
    import torch
    from sinabs.activation import MembraneReset, MembraneSubtract, SingleSpike
    from sinabs.layers import LIF

    for name, reset in (("reset", MembraneReset()), ("subtract", MembraneSubtract())):
        layer = LIF(tau_mem=10.0, tau_syn=5.0, norm_input=True, spike_fn=SingleSpike, reset_fn=reset)

        def step(row, state, layer=layer):
            s = layer(row[:, None])[:, 0]
            return s, layer.v_mem, state

        with torch.no_grad():
            yield f"sinabs_lif_{name}", in_torch(step, None, 0.5, gradient=False)


def spyx():
    import jax
    import jax.numpy as jnp
    import spyx.nn
    from flax import nnx
    from spyx.axn import superspike

    cotangent = np.random.default_rng(1).standard_normal((T, N)).astype(np.float32)
    options = {"activation": superspike(25), "rngs": nnx.Rngs(0)}
    cells = {
        "spyx_lif": (spyx.nn.LIF((N,), beta=0.9, **options), 0.25),
        "spyx_cubalif": (spyx.nn.CuBaLIF((N,), alpha=0.8, beta=0.9, **options), 0.08),
    }
    for name, (cell, mean) in cells.items():

        def run(current, cell=cell):
            state, spikes, membranes = cell.initial_state(1), [], []
            for row in current:
                s, state = cell(row[None], state)
                spikes.append(s[0])
                membranes.append(state[0, :N])
            return jnp.stack(spikes), jnp.stack(membranes)

        current = drive(mean)
        spikes, membranes = run(current)
        gradient = jax.grad(lambda x: (run(x)[0] * cotangent).sum())(current)
        arrays = {"current": current, "spikes": spikes, "membrane": membranes}
        arrays |= {"cotangent": cotangent, "gradient": gradient}
        yield name, {key: np.asarray(x) for key, x in arrays.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for library in (norse, snntorch, spikingjelly, sinabs, spyx):
        for name, arrays in library():
            np.savez_compressed(folder / f"{name}.npz", **{k: x.astype(np.float32) for k, x in arrays.items()})
