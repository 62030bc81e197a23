"""One run in many processes, as torchrun starts them: every process computes its share of each global batch.

Loss and penalties are means over the samples b = 1..B of a batch of a term of that sample alone. Where process r has
B_r of them and L_r is the mean over its own, the gradient of the global batch is therefore

    dL/dw = sum_r (B_r / B) dL_r/dw,

one sum over processes per step, which `DistributedDataParallel` takes. (A penalty on averages over the batch is given
those over all processes.) All processes draw the same order of samples, and escape noise is addressed by the samples'
own numbers: the spikes do not depend on who draws them.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surgrad.datasets.events import EventBatch
from surgrad.errors import UserError
from surgrad.runs import folder as runs

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Args:
        rank: its number, 0 to size - 1.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """Those that `open_run` has connected, else this process alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    def device(self, wanted: torch.device) -> torch.device:
        """The device of this process: the GPU with its number on this machine, where a GPU is wanted.

        Raises:
            UserError: if one GPU is named for all processes, or this machine has fewer than it has processes.
        """
        if self.size == 1 or wanted.type != "cuda":
            return wanted
        wished, available = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if wanted.index is not None:
            raise UserError(f"device={wanted}: {self.size} processes take a GPU each; give device=cuda")
        if wished > available:
            raise UserError(
                f"{wished} processes on a machine of {available} GPUs: give torchrun --nproc-per-node={available}"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, whose gradients are averaged over processes in each backward pass."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def share(self, batch: EventBatch) -> tuple[EventBatch, float]:
        """The samples of a global batch that this process computes, and the weight of their mean in the average.

        The shares differ by one sample at most. Processes without a sample compute one with weight 0, since all of
        them must take part in each sum.
        """
        if self.size == 1:
            return batch, 1.0
        first, last = (len(batch) * k // self.size for k in (self.rank, self.rank + 1))
        if first == last:
            return samples(batch, 0, 1), 0.0
        return samples(batch, first, last), self.size * (last - first) / len(batch)

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` (on the CPU) over processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def with_common_mean(self, x: Tensor, weight: float) -> Tensor:
        """Shift a share ``x`` (B_r, ...) so that its mean over samples is that of the global batch.

        The shift carries no gradient: that of a function f of the mean is f' times that of the own mean, which the
        average over processes makes that of the global one.
        """
        if self.size == 1:
            return x
        own = x.detach().mean(0)
        return x + (self.total(weight / self.size * own.cpu()).to(own) - own)

    def agreed(self, find: Callable[[], T]) -> T:
        """What ``find`` gives in the first process, in all of them; it is called there alone."""
        if self.size == 1:
            return find()
        found = [find() if self.first else None]
        dist.broadcast_object_list(found)
        agreed: list[Any] = found
        return agreed[0]


#: No other process.
ALONE = Processes()


def samples(batch: EventBatch, first: int, last: int) -> EventBatch:
    """Samples ``first`` to ``last - 1`` of a batch, with their labels and numbers."""
    start, end = int(batch.offsets[first]), int(batch.offsets[last])
    return replace(
        batch,
        steps=batch.steps[start:end],
        units=batch.units[start:end],
        offsets=batch.offsets[first : last + 1] - start,
        counts=None if batch.counts is None else batch.counts[start:end],
        labels=batch.labels[first:last],
        ids=batch.ids[first:last],
    )


@dataclass
class Follower:
    """What a process has in place of a run, if another one writes the run folder: nothing is kept."""

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)

    def load_checkpoint(self) -> None:
        """Nothing: the first process sends it."""

    def log(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def rewind(self, epoch: int | None) -> None:
        """Nothing."""

    def checkpoint(self, content: dict[str, Any]) -> None:
        """Nothing."""

    def state(self, name: str, array: Any, units: str | None = None, **attributes: Any) -> None:
        """Nothing."""

    def figure(self, name: str, figure: Any) -> None:
        """Nothing."""


@contextmanager
def open_run(folder: str | Path, *args: Any, **options: Any) -> Iterator[runs.Run | Follower]:
    """`surgrad.runs.folder.open_run` in the first of the processes that torchrun started, a `Follower` in the others.

    Connects them until the run folder is closed; without torchrun there is but one process. What all meet is said by
    the first alone. When a process ends before its time, the first says so and leaves the run interrupted.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        with runs.open_run(folder, *args, **options) as run:
            yield run
        return
    # scores and checkpoints are exchanged on the CPU, gradients where the network is
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        if Processes.current().first:
            with _announced(runs.open_run(folder, *args, **options)) as run:
                yield run
        else:
            with _following(Path(folder)) as follower:
                yield follower
    finally:
        dist.destroy_process_group()
    _leave()


def _leave() -> None:
    """End a process of torchrun whose run is done and written, without the interpreter's own end.

    There gloo's threads are, rarely, destroyed before they were joined: the process aborts (exit code -6, torch 2.13),
    and torchrun calls a run failed that is complete.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _announced(opening: AbstractContextManager[runs.Run]) -> Iterator[runs.Run]:
    """The run folder, once the other processes know whether and how it opened."""
    with ExitStack() as stack:
        refusal: tuple[str, dict[str, Any]] | None = ("the first process could not open the run folder", {})
        try:
            run = stack.enter_context(opening)
            refusal = None
        except runs.RunDone as done:
            refusal = ("", done.summary)
            raise
        finally:
            Processes.current().agreed(lambda: refusal)
        try:
            yield run
        except RuntimeError as error:
            if not _connection_lost(error):
                raise
            log.error("error: another process of this run has ended; the same command goes on from the last checkpoint")
            raise SystemExit(1) from error


@contextmanager
def _following(folder: Path) -> Iterator[Follower]:
    logging.disable(logging.ERROR)  # for good: a process does not change its place
    refusal = Processes.current().agreed(lambda: None)
    if refusal is not None:
        message, summary = refusal
        raise UserError(message) if message else runs.RunDone(folder, summary)
    try:
        yield Follower(folder)
    except UserError:
        raise  # met by all
    except Exception:
        log.critical("process %d of %d failed", dist.get_rank(), dist.get_world_size(), exc_info=True)
        raise


def _connection_lost(error: RuntimeError) -> bool:
    """Whether it comes from the exchange between processes: gloo has no error of its own, but names its files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
