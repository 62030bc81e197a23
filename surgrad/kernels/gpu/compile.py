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

from surgrad.kernels.gpu import adaptive
from surgrad.kernels.gpu.adaptive_scan import adaptive_scan, adaptive_scan_adjoint
from surgrad.kernels.gpu.layer import Population
from surgrad.kernels.gpu.scan import scan, scan_adjoint
from surgrad.kernels.gpu.spike_products import (
    gradient_constants,
    product_constants,
    spike_product,
    spike_weight_gradient,
)
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


def compiled_products(fan_in: int, units: int, capability: int = 90) -> dict[str, CompiledKernel]:
    """The product of byte spikes and its gradient by the weight ("forward", "adjoint"), as `compiled`."""
    found = {}
    for name, kernel, constants in (
        ("forward", spike_product, product_constants(fan_in, units)),
        ("adjoint", spike_weight_gradient, gradient_constants(fan_in, units)),
    ):
        options = {"num_warps": constants.pop("num_warps")}
        found[name] = _translated(kernel, constants | {"BF16": True}, options, capability)
    return found


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
