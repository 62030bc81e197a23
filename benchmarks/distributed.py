"""One run in several processes: time of a training step, share of the exchange: python3 -m benchmarks.distributed

Trains the ConvSNN of the Classification suite on its data; overrides (batch_size=64 dataset=randman …) go to its
configuration. A layout 2x1 is two processes of one thread each. Passes with the exchange of gradients and scores take
turns with passes without, in which every process computes the same share alone; exchange_share is what the former take
longer, waiting for the slower process included. exchange_s is the exchange by itself, no process late.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from torch import Tensor, nn

import surgrad.config.entry  # noqa: F401  its search path and resolvers
from surgrad.config.check import check
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.network.initializers import Distribution, FluctuationDrivenCentered
from surgrad.runs.record import REPO
from surgrad.training.distributed import Processes
from surgrad.training.loop import BatchGrid, Objective, train_epoch
from surgrad.training.losses import build_loss
from surgrad.training.optimizers import build_optimizer

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Unconnected(Processes):
    """Processes that take their shares and exchange nothing."""

    def parallel(self, network: nn.Module) -> nn.Module:
        return network

    def total(self, values: Tensor) -> Tensor:
        return values


def configuration(overrides: list[str]) -> ClassificationConfig:
    ConfigStore.instance().store(name="schema", node=ClassificationConfig)
    with initialize_config_dir(str(REPO / "configs" / "classification"), version_base="1.3"):
        return check(compose("config", overrides), ClassificationConfig)


class Step:
    """Training passes of a configuration in this process."""

    def __init__(self, cfg: ClassificationConfig, processes: Processes):
        self.cfg, self.data = cfg, cfg.dataset.splits()[0]
        generator = torch.Generator().manual_seed(cfg.seed)
        self.network = cfg.network(self.data.nb_units, self.data.nb_classes, generator)
        initialize = FluctuationDrivenCentered(
            cfg.method.target_sigma_u, cfg.dataset.nu, cfg.dataset.alpha, readout=Distribution()
        )
        initialize(self.network, generator)
        shape = (1, self.data.nb_units)
        self.grid = BatchGrid(cfg.batch_size, cfg.dataset.time_step, cfg.dataset.nb_steps, shape)
        self.objective = Objective(build_loss(cfg.loss_type), cfg.regularizer.build())
        self.optimizer = build_optimizer(cfg.optimizer, self.network.parameters(), cfg.method.lr)
        self.weights = {name: w.clone() for name, w in self.network.state_dict().items()}
        kinds = (processes, Unconnected(**vars(processes)))[: processes.size]  # a single process exchanges nothing
        self.models = {kind: kind.parallel(self.network) for kind in kinds}

    def __call__(self, processes: Processes, nb_steps: int) -> dict[str, float]:
        """Seconds of a step, over the first ``nb_steps`` of a pass, from the same weights each time."""
        self.network.load_state_dict(self.weights)
        generator = torch.Generator().manual_seed(self.cfg.seed)
        batches = self.grid(self.data, generator, self.cfg.dataset.augmentation())
        batches.groups = batches.groups[:nb_steps]
        wall, cpu = time.perf_counter(), time.process_time()
        train_epoch(self.models[processes], batches, self.objective, self.optimizer, draw=1, processes=processes)
        nb = len(batches)
        return {"wall": (time.perf_counter() - wall) / nb, "cpu": (time.process_time() - cpu) / nb}


def exchange(processes: Processes, nb_weights: int) -> float:
    """Seconds in which the gradients and scores of one step are summed over processes that have nothing else to do."""
    gradient, scores = torch.zeros(nb_weights), torch.zeros(8, dtype=torch.float64)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        processes.total(gradient)
        processes.total(scores)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def work(args: argparse.Namespace) -> None:
    """In each process: passes with and without exchange in turn; the first prints a line for each pair."""
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    processes = Processes.current()
    step = Step(configuration(args.overrides), processes)
    nb_weights = sum(w.numel() for w in step.network.parameters())
    for _ in range(1 + args.passes):
        connected, *alone = (step(kind, args.steps) for kind in step.models)
        seconds = exchange(processes, nb_weights)
        cpu = processes.total(torch.tensor([connected["cpu"]])).item()
        if processes.first:
            line = {"step_s": connected["wall"], "cpu_s": cpu}
            if alone:
                line |= {"alone_s": alone[0]["wall"], "exchange_share": 1 - alone[0]["wall"] / connected["wall"]}
                line |= {"exchange_s": seconds, "exchanged_bytes": 4 * nb_weights}
            print(json.dumps(line), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def launch(layout: str, args: argparse.Namespace) -> list[dict]:
    """Lines of one start of a layout, without the first, in which memory is touched for the first time."""
    nb_processes, threads = layout.split("x")
    command = [sys.executable, "-m"]
    if nb_processes != "1":
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={nb_processes}", "-m"]
    options = ["--worker", f"--passes={args.passes}", f"--steps={args.steps}"]
    command += ["benchmarks.distributed", *options, *args.overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()[1:]]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("overrides", nargs="*", help="of configs/classification/config.yaml")
    p.add_argument("--layouts", nargs="+", default=["1x1", "1x2", "2x1"], metavar="PROCESSESxTHREADS")
    p.add_argument("--repeats", type=int, default=3, help="starts of each layout, in turn")
    p.add_argument("--passes", type=int, default=3, help="timed passes in each start, after one that is not")
    p.add_argument("--steps", type=int, default=8, help="steps of a pass")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        work(args)
        return
    lines: dict[str, list[dict]] = {layout: [] for layout in args.layouts}
    for _ in range(args.repeats):
        for layout in args.layouts:
            lines[layout] += launch(layout, args)
    first = statistics.median(line["step_s"] for line in lines[args.layouts[0]])
    for layout, found in lines.items():
        median = {key: statistics.median(line[key] for line in found) for key in found[0]}
        wall = [line["step_s"] for line in found]
        median |= {"best_s": min(wall), "spread": max(wall) / min(wall), "speed_up": first / median["step_s"]}
        about = {"layout": layout, "overrides": args.overrides, "passes": len(found), "load": os.getloadavg()[0]}
        rounded = {key: float(f"{value:.4g}") for key, value in median.items()}
        print(json.dumps({**about, **rounded, "date": time.strftime("%Y-%m-%d %H:%M")}), flush=True)


if __name__ == "__main__":
    main()
