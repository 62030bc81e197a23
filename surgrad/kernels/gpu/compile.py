"""Compile a layer's two kernels for a GPU that is not there, to see that they compile and what they need.

Triton translates for any architecture by its own assembler; only the launch needs the device.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from surgrad.kernels.contract import ConnectionSpec
from surgrad.kernels.gpu import adaptive, spike_convolutions, spike_products
from surgrad.kernels.gpu.adaptive_scan import adaptive_scan, adaptive_scan_adjoint
from surgrad.kernels.gpu.layer import Population
from surgrad.kernels.gpu.scan import scan, scan_adjoint
from surgrad.neurons.lif import AdaptiveLIF

_TYPES = {"spikes": "*u8", "key": "*i64", "ids": "*i64"}
_TYPES |= dict.fromkeys(("noise_p", "noise_q", "surrogate_p", "surrogate_q"), "fp32")
_TYPES |= dict.fromkeys(
    ("nb_samples", "nb_steps", "segment", "first_step", "layer", "nb_taps", "nb_rows", "share"), "i32"
)

#: Options of a launch, not arguments of a kernel.
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def compiled(population: Population, capability: int = 90, decays: bool = False) -> dict[str, CompiledKernel]:
    """The forward and the adjoint scan of a layer, ``decays``: with per-neuron time constants and their gradients.

    Args:
        population: the layer.
        capability: compute capability without the dot, 90 for Hopper.
        decays: with per-neuron time constants and their gradients; adaptive neurons always have them.

    Returns:
        "forward" and "adjoint", each with its machine code ``asm["cubin"]`` and ``metadata.shared``, bytes of shared
        memory.
    """
    cpu = torch.device("cpu")
    spread = population.recurrent is not None and population.recurrent.has_delays
    if spread or isinstance(population.neuron, AdaptiveLIF):
        both = adaptive.constants(population, cpu, spread=spread)
        return {
            "forward": _compiled(adaptive_scan, both["forward"], population.precision, capability),
            "adjoint": _compiled(adaptive_scan_adjoint, both["adjoint"], population.precision, capability),
        }
    spiking = population.neuron is not None
    forward = population.forward_constants(cpu, per_unit=decays, save=spiking or decays)
    backward = population.backward_constants(cpu, per_unit=decays, decays=decays, upstream=True, counts=spiking)
    return {
        "forward": _compiled(scan, forward, population.precision, capability),
        "adjoint": _compiled(scan_adjoint, backward, population.precision, capability),
    }


def compiled_product(connection: ConnectionSpec, capability: int = 90) -> dict[str, CompiledKernel]:
    """The product of byte spikes and its gradient by the weight ("forward", "adjoint"), as `compiled`."""
    if connection.kind == "conv":
        kernels = spike_convolutions.spike_convolution, spike_convolutions.spike_kernel_gradient
        forward = spike_convolutions.product_constants(connection)
        adjoint = spike_convolutions.gradient_constants(connection)
    else:
        kernels = spike_products.spike_product, spike_products.spike_weight_gradient
        units, fan_in = connection.known_weight.shape
        forward = spike_products.product_constants(fan_in, units)
        adjoint = spike_products.gradient_constants(fan_in, units)
    return {
        "forward": _product(kernels[0], forward, capability),
        "adjoint": _product(kernels[1], adjoint, capability),
    }


def _product(kernel: Any, constants: dict[str, int], capability: int) -> CompiledKernel:
    options = {"num_warps": constants.pop("num_warps")}
    return _translated(kernel, constants | {"BF16": True}, options, capability)


def _compiled(kernel: Any, constants: dict[str, Any], precision: str, capability: int) -> CompiledKernel:
    options = {name: constants.pop(name) for name in _OPTIONS}
    constants["PRECISION"] = "tf32x3" if precision == "float32" else precision
    if not constants["RECURRENT"]:
        constants["taps"] = None
    if not constants.get("SPREAD", True):
        constants |= dict.fromkeys({"shares", "kept", "heard", "heard_gradient"} & set(kernel.arg_names))
    return _translated(kernel, constants, options, capability)


def _translated(kernel: Any, constants: dict[str, Any], options: dict[str, Any], capability: int) -> CompiledKernel:
    spiking = "THRESHOLD" in constants and constants.get("SPIKING", True)
    types = _TYPES | {"out": "*u8" if spiking else "*fp32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    # Allocations begin at multiples of 16 bytes at least.
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


class Resources(NamedTuple):
    """What a program of a kernel takes: registers of a thread, bytes of them spilled to memory, shared memory."""

    registers: int
    spilled: int
    shared: int


def resources(kernel: CompiledKernel) -> Resources:
    """By NVIDIA's `cuobjdump`, which comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", report)}
    return Resources(found["REG"], found["STACK"], kernel.metadata.shared)
