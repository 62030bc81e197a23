"""How fast the kernels are on the device, and how much memory they take."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.gpu_check.common import DEVICE, DRY, finish, ids_of, network_of, spikes_for, time_is_up
from surgrad.datasets.batch import EventBatch
from surgrad.datasets.events import EventDataset
from surgrad.errors import known
from surgrad.kernels.contract import ConnectionSpec, connection_spec
from surgrad.kernels.precision import products as in_precision
from surgrad.network.connections import Conv, Dense
from surgrad.network.methods import SpikeParameters, method_neuron
from surgrad.network.models import ConvStack, conv_snn
from surgrad.network.network import Network
from surgrad.neurons.escape_noise import Sigmoid
from surgrad.neurons.lif import LIF
from surgrad.training.captured import Captured
from surgrad.training.loop import BatchGrid, Compute, Objective, Step, train_epoch
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.optimizers import build_optimizer
from surgrad.training.regularizers import UpperBoundL2

Row = dict[str, Any]
DT = 2e-3  # s


def environment() -> Iterator[Row]:
    """Card, driver, versions, date."""
    import triton

    row: Row = {
        "what": platform.platform(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }
    if not DRY:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        row["card"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        row["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
        row["cudnn"] = torch.backends.cudnn.version()
    yield row


def seconds(step: Callable[[], object], rounds: int = 5) -> float:
    """Median time of a call after two to warm up."""
    found = []
    for number in range(1 if DRY else rounds + 2):
        finish()
        start = time.perf_counter()
        step()
        finish()
        if DRY or number >= 2:
            found.append(time.perf_counter() - start)
        if found and time_is_up():
            break
    return statistics.median(found)


def _reset_peak() -> None:
    if not DRY:
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float:
    """MiB."""
    return 0.0 if DRY else torch.cuda.max_memory_allocated() / 2**20


def published(method: str) -> Network:
    """The convolutional network of the paper on 700 channels and 20 classes; in a rehearsal with 60."""
    torch.manual_seed(0)
    stack = ConvStack(nb_filters=(4, 4, 4), kernel_size=(7, 3, 2), stride=(4, 2, 2)) if DRY else ConvStack()
    neuron = method_neuron(method, SpikeParameters())
    shape = (1, 60 if DRY else 700)
    return conv_snn(
        stack, in_shape=shape, nb_classes=20, neuron=neuron, dt=DT, tau_mem=20e-3, tau_syn=10e-3, tau_readout=0.7
    ).to(DEVICE)


def _training(network: Network, nb_steps: int, nb_samples: int, compute: Compute) -> Callable[[], Tensor]:
    """One step of training: forward, loss, backward, optimiser."""
    x = spikes_for(network, nb_steps, nb_samples, 0.02).to(torch.uint8)
    y, ids = torch.zeros(nb_samples, dtype=torch.int64, device=DEVICE), ids_of(nb_samples)
    optimizer = build_optimizer("smorms3", network.parameters(), 1e-6)

    def step() -> Tensor:
        optimizer.zero_grad()
        output = compute(network, x, seed=1, draw=2, ids=ids)
        penalty = sum(torch.relu(c.mean((-2, -1)) - 7).square().mean() for c in output.counts)
        loss: Tensor = F.cross_entropy(output.y.amax(0), y) + 0.1 * penalty
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


#: Rows or images, and what they pass through: dense layers, the published convolutions and their loops.
PRODUCTS: dict[bool, list[tuple[int, Dense | Conv]]] = {
    True: [(60, Dense(20, 6)), (30, Conv((2, 9), 5, 3, 2))],
    False: [
        (44800, Dense(700, 128)),
        (140000, Dense(320, 20)),
        (44800, Dense(4096, 4096)),
        (65200, Conv((1, 700), 16, 21, 10)),
        (65200, Conv((16, 68), 32, 7, 3)),
        (65200, Conv((32, 21), 64, 7, 3)),
        (65200, Conv((16, 68), 16, 5, 1, 2)),
        (65200, Conv((64, 5), 64, 5, 1, 2)),
    ],
}


def products() -> Iterator[Row]:
    """Products of byte spikes against those of cuBLAS and cuDNN, in float32, forward and by the weight.

    Errors are relative to the sum of the absolute values of what is summed.
    """
    generator = torch.Generator().manual_seed(0)
    for nb_rows, layer in PRODUCTS[DRY]:
        connection = known("the connection", connection_spec(layer, "layer"))
        spikes = (torch.rand(1, nb_rows, *layer.in_shape, generator=generator) < 0.05).to(torch.uint8).to(DEVICE)
        weight = torch.randn(layer.weight.shape, generator=generator).to(DEVICE)
        drive = torch.randn(1, nb_rows, *layer.out_shape, generator=generator).to(DEVICE)
        for what, product, x in (
            ("forward", _forward, weight),
            ("by the weight", partial(_by_weight, weight), drive),
        ):
            row: Row = {"what": f"{nb_rows} of {layer.in_shape} to {layer.out_shape}, {what}"}
            row["bytes, s"] = seconds(partial(product, connection, spikes, x))
            with in_precision("float32", DEVICE):
                row["float32, s"] = seconds(partial(product, connection, spikes, x, widened=True))
                error = (product(connection, spikes, x) - product(connection, spikes, x, widened=True)).abs()
                size = product(connection, spikes, x.abs(), widened=True).clamp(min=1e-20)
            worst = float((error / size).max())
            yield {**row, "error": worst, "ok": worst < 1e-5}
        if time_is_up():
            return


def _forward(connection: ConnectionSpec, spikes: Tensor, weight: Tensor, widened: bool = False) -> Tensor:
    """``widened``: spikes are made float32 first, for the product of the library."""
    from surgrad.kernels.gpu.products import current

    return current(connection, weight, spikes.float() if widened else spikes, "float32")


def _by_weight(
    weight: Tensor, connection: ConnectionSpec, spikes: Tensor, drive: Tensor, widened: bool = False
) -> Tensor:
    from surgrad.kernels.gpu.products import weight_gradient

    return weight_gradient(connection, weight, spikes.float() if widened else spikes, drive, "float32")


def step() -> Iterator[Row]:
    """Item D at batch 400 in every precision and memory: time, peak memory, launches, waits of the host."""
    nb_steps, nb_samples = (3, 2) if DRY else (350, 400)
    for method, precision, memory in (
        ("superspike", "float32", "full"),
        ("stochasticsuperspike", "float32", "full"),
        ("superspike", "float32", "recompute"),
        ("superspike", "tf32", "full"),
        ("superspike", "bf16", "full"),
    ):
        compute = Compute(kernel="cuda", precision=precision, memory=memory)
        train = _training(published(method), nb_steps, nb_samples, compute)
        train()
        _reset_peak()
        row: Row = {"what": f"D, {method}", "precision": precision, "memory": memory, "batch": nb_samples}
        yield {**row, "seconds": seconds(train, 7), "peak MiB": _peak(), **_launches(train)}


def _launches(train: Callable[[], object]) -> Row:
    """Kernels that one step launches, and how often the host waits in it."""
    if DRY:
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        train()
        finish()
    events = profiler.key_averages()
    launched = sum(event.count for event in events if "LaunchKernel" in event.key)
    waits = sum(event.count for event in events if "Synchronize" in event.key) - 1  # the one of `finish`
    return {"launches": launched, "waits": waits}


#: Items of `benchmarks`: command, and its sizes on a GPU and in a rehearsal.
ITEMS = {
    "A": ("linear_lif", "--neurons 16384", "--neurons 32 --batch 2 --steps 10"),
    "B": ("lif_scan", "", "--neurons 32 --batch 2 --steps 10"),
    "C": ("recurrent", "", "--batch 2 --steps 10"),
    "D": ("convsnn_step", "--batch 400 --mode deterministic", "--batch 2 --steps 10 --mode deterministic"),
}


def items() -> Iterator[Row]:
    """Items A to D of the benchmarks against a plain PyTorch loop in float32, and their floors."""
    for name, (item, sizes, small) in ITEMS.items():
        command = [sys.executable, "-m", f"benchmarks.{item}", *(small if DRY else sizes).split()]
        command += ["--device", DEVICE.type, "--frameworks", "surgrad", "torch_loop", "--repeats", "3", "--limit", "20"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for result in results:
            keys = (
                "framework",
                "batch",
                "median_s",
                "spread",
                "ratio_to_ours",
                "ratio_to_floor",
                "peak_mib",
                "skipped",
            )
            yield {"what": name, **{key: result[key] for key in keys if key in result}}
        if not results:
            yield {"what": name, "ok": False, "error": done.stderr.strip()[-300:]}
        if time_is_up(15):
            return


def epoch() -> Iterator[Row]:
    """Epochs of a data set of the size of the spiking digits (7340 samples of 7000 events), batches of 400."""
    nb_samples, nb_events, nb_steps, batch_size = (6, 60, 6, 4) if DRY else (7340, 7000, 350, 400)
    network = published("stochasticsuperspike")
    random, nb_units = np.random.default_rng(0), network.spec().stack[0].incoming.known_in_shape[-1]
    times = random.random(nb_samples * nb_events, dtype=np.float32) * np.float32(DT * nb_steps)
    units = random.integers(0, nb_units, nb_samples * nb_events)
    labels, offsets = random.integers(0, 20, nb_samples), np.arange(nb_samples + 1) * nb_events
    data = EventDataset(times, units, offsets, labels, nb_units, 20)
    optimizer = build_optimizer("smorms3", network.parameters(), 1e-3)
    grid = BatchGrid(batch_size, DT, nb_steps, (1, nb_units), str(DEVICE))
    objective = Objective(MaxOverTimeCrossEntropy(), [UpperBoundL2(0.06, 7.0)])
    generator, compute = torch.Generator().manual_seed(0), Compute(kernel="cuda")
    for number in range(1, 2 if DRY else 5):
        _reset_peak()
        finish()
        start = time.perf_counter()
        scores = train_epoch(network, grid(data, generator), objective, optimizer, draw=number, compute=compute)
        finish()
        row: Row = {"what": f"epoch {number}", "seconds": time.perf_counter() - start, "peak MiB": _peak()}
        yield {**row, "ok": scores.loss < 1e3, "loss": scores.loss, "rates in Hz": [round(r, 2) for r in scores.rates]}
        if time_is_up(10):
            return


def captured() -> Iterator[Row]:
    """Training steps launched one by one and captured as a graph: the same weights to the bit, and their time."""
    nb_steps, nb_samples, units = (4, 2, 6) if DRY else (350, 128, 128)
    networks: dict[str, Callable[[], Network]] = {
        f"700-{units}-{units}-20": lambda: network_of(
            [Dense(70 if DRY else 700, units), Dense(units, units)],
            [Dense(units, units), Dense(units, units)],
            LIF(escape_noise=Sigmoid(10.0)),
        ),
        "published": lambda: published("stochasticsuperspike"),
    }
    objective = Objective(MaxOverTimeCrossEntropy(), [UpperBoundL2(0.06, 7.0)])
    for name, make in networks.items():
        weights: list[list[Tensor]] = []
        row: Row = {"what": f"{name}, batch {nb_samples}"}
        for column in ("launched, s", "captured, s"):
            network = make()
            x = spikes_for(network, nb_steps, nb_samples, 0.02 if not DRY else 0.4).cpu()
            labels = torch.arange(nb_samples) % 20
            batch = EventBatch.from_dense(x, labels, ids_of(nb_samples).cpu()).to(DEVICE)
            optimizer = torch.optim.Adam(network.parameters(), 1e-4, capturable=not DRY)
            step = Step(network, objective, optimizer, compute=Compute(kernel="cuda"))
            whole = Captured(nb_samples)
            whole.begin(step)
            run = partial(whole, batch, 1) if column == "captured, s" else partial(step, batch, 1)
            for _ in range(4):
                run()
            weights.append([p.detach().clone() for p in network.parameters()])
            row[column] = seconds(run)
        row["ok"] = all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
        yield row
        if time_is_up(10):
            return
