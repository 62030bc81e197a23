"""Loops that a killed run goes on with: the epochs of training, and the pieces of a study.

A checkpoint holds everything that the rest of a run, and its result, depend on. What was computed after it is computed
again, with the same numbers: a run that was killed, at any moment, ends as one that was not.
"""

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from surgrad.errors import UserError
from surgrad.runs.folder import Run
from surgrad.runs.log import progress
from surgrad.runs.record import RunRecord
from surgrad.training.distributed import ALONE, Follower, Processes

log = logging.getLogger(__name__)

T = TypeVar("T")


# ---------------------------------------------------------------- epochs
class Trainee(ABC):
    """What `run_epochs` trains: one epoch of it, and its state.

    Attributes:
        shown: columns of metrics.csv that the log repeats.
        lr_key: where the configuration has the learning rate.
        intact: whether an epoch that fails leaves the state as it was, which then is worth a checkpoint.
    """

    shown: ClassVar[tuple[str, ...]] = ()
    lr_key: str = "lr"
    intact: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """Updates of the progress bar in an epoch."""
        return 1

    def start(self) -> Mapping[str, Any] | None:
        """The row of metrics.csv before the first epoch; None if there is nothing to say."""
        return None

    @abstractmethod
    def epoch(self, number: int, bar: "tqdm[Any]") -> Mapping[str, Any]:
        """Train for one epoch, updating the bar ``steps`` times; returns its row of metrics.csv.

        Raises:
            UserError: if there is no going on, such as for a loss that is not finite.
        """

    def observe(self, number: int) -> Mapping[str, Any]:
        """Record what an epoch has led to; returns more columns. Its time does not count as that of the epoch."""
        return {}

    def due(self, number: int) -> bool:
        """Whether there must be a checkpoint after an epoch."""
        return False

    def finished(self, number: int) -> bool:
        """Whether training ends after an epoch, before the last one."""
        return False

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that the epochs to come, and the result, depend on: tensors, numbers, strings, lists, dicts."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""


def run_epochs(
    trainee: Trainee,
    run: Run | Follower,
    epochs: range,
    *,
    logging_freq: int = 10,
    checkpoint_seconds: float = 0.0,
    processes: Processes = ALONE,
    unit: str = "epoch",
) -> None:
    """Train for ``epochs``, or for those that the checkpoint of the run folder leaves to do.

    Args:
        trainee: what is trained.
        run: gets a row per epoch and the checkpoints.
        epochs: their numbers.
        logging_freq: epochs between two lines of the log.
        checkpoint_seconds: there is a checkpoint after an epoch if this long has passed since the last one, if it is
            due, and after the last epoch.
        processes: of this run; the first reads the checkpoint.
        unit: of the progress bar.

    Raises:
        UserError: if training cannot go on; the last checkpoint stays. Also for one that is not of this run.
    """
    done = _restored(trainee, run, epochs, processes)
    if done is None:
        done = epochs.start - 1
        row = trainee.start()
        if row is not None:
            run.log({"epoch": done, **row, **trainee.observe(done)})
            run.checkpoint({"epoch": done, **trainee.state()})
    kept, kept_at, nb_epochs = done, time.monotonic(), epochs.stop - 1
    watch = _Watch(done)
    ends = trainee.finished(done)
    bar = progress(
        total=len(epochs) * trainee.steps,
        initial=(done + 1 - epochs.start) * trainee.steps,
        unit=unit,
        disable=None if processes.first else True,
    )
    with bar:
        for epoch in range(done + 1, epochs.stop):
            if ends:
                break
            bar.set_description(f"epoch {epoch}/{nb_epochs}")
            started = time.perf_counter()
            try:
                row = trainee.epoch(epoch, bar)
            except UserError as error:
                if trainee.intact:
                    kept = epoch - 1
                    run.checkpoint({"epoch": kept, **trainee.state()})
                raise UserError(
                    f"epoch {epoch}: {error}; training stopped, the checkpoint in {run.folder} keeps epoch {kept}; "
                    f"try a smaller {trainee.lr_key}"
                ) from error
            seconds = time.perf_counter() - started
            run.log({"epoch": epoch, **row, **trainee.observe(epoch), "seconds": round(seconds, 5)})
            if epoch % logging_freq == 0 or epoch in (1, nb_epochs) or watch.silent:
                shown = ", ".join(f"{name} {row[name]:.4g}" for name in trainee.shown if name in row)
                log.info("epoch %d/%d: %s, %.2f s%s", epoch, nb_epochs, shown, seconds, watch.left(epoch, nb_epochs))
            if ends := trainee.finished(epoch):
                log.info("training ends after epoch %d", epoch)
            if ends or epoch == nb_epochs or trainee.due(epoch) or time.monotonic() - kept_at >= checkpoint_seconds:
                run.checkpoint({"epoch": epoch, **trainee.state()})
                kept, kept_at = epoch, time.monotonic()


class _Watch:
    """How long training will take, and whether nothing has been said of it for a while.

    Args:
        done: epochs done before.
    """

    QUIET = 60.0  # s after which an epoch is said

    def __init__(self, done: int):
        self.done = done
        self.started = self.said = time.monotonic()

    @property
    def silent(self) -> bool:
        """Whether the last line is long ago."""
        return time.monotonic() - self.said > self.QUIET

    def left(self, epoch: int, nb_epochs: int) -> str:
        """The time that is left at the pace so far, in words; nothing where it is short."""
        self.said = time.monotonic()
        seconds = (self.said - self.started) / max(1, epoch - self.done) * (nb_epochs - epoch)
        for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
            if seconds >= max(2 * length, 10.0):
                return f"; about {seconds / length:.0f} {unit} to go"
        return ""


def _restored(trainee: Trainee, run: Run | Follower, epochs: range, processes: Processes) -> int | None:
    """The epoch whose checkpoint was put back; None without one."""
    content = processes.agreed(run.load_checkpoint)
    if content is None:
        return None
    try:
        done = int(content["epoch"])
        if not epochs.start - 1 <= done < epochs.stop:
            raise ValueError(f"it is of epoch {done} of {epochs.stop - 1}")
        trainee.restore(content)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the checkpoint in {run.folder} is not of this run ({reason[:200]}); rerun=all starts afresh"
        ) from error
    run.rewind(done)
    log.info("going on after epoch %d", done)
    return done


# ---------------------------------------------------------------- pieces
class Keep(Protocol):
    """Gives the pieces of a study by name, computed now or before."""

    def __call__(self, name: str, compute: Callable[[], T], generator: torch.Generator | None = None) -> T:
        """What ``compute`` returns; a generator that it draws from goes on behind its draws."""


def compute_now(name: str, compute: Callable[[], T], generator: torch.Generator | None = None) -> T:
    """Computes a piece and keeps nothing."""
    return compute()


class Pieces:
    """Keeps the pieces of a study in its checkpoint: a killed study goes on with those that were not finished.

    Args:
        run: open run folder.
        kinds: dataclasses and named tuples that pieces are made of, beside arrays, tensors, numbers, strings, lists,
            tuples and dicts.
    """

    def __init__(self, run: Run, *kinds: type):
        self._run, self._kinds = run, {kind.__name__: kind for kind in kinds}
        saved = run.load_checkpoint(rows=False) or {}
        self._done: dict[str, dict[str, Any]] = saved.get("pieces", {})
        if not self._done:
            run.rewind(None)
        columns = RunRecord(run.folder).metrics if self._done and (run.folder / "metrics.csv").exists() else {}
        self._rows_left = len(next(iter(columns.values()), []))  # that metrics.csv has already
        if self._done:
            log.info("going on after %d pieces, the last of them %s", len(self._done), list(self._done)[-1])

    def __call__(self, name: str, compute: Callable[[], T], generator: torch.Generator | None = None) -> T:
        """What ``compute`` returns; a generator that it draws from goes on behind its draws, computed or not."""
        if name not in self._done:
            value = self._plain(compute())
            drawn = None if generator is None else generator.get_state()
            self._done[name] = {"value": value, "generator": drawn}
            self._run.checkpoint({"pieces": self._done})
        elif generator is not None:
            generator.set_state(self._done[name]["generator"])
        return self._built(self._done[name]["value"])

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.csv, unless it is there from before: rows come in the same order each time."""
        if self._rows_left:
            self._rows_left -= 1
        else:
            self._run.log(row)

    def under(self, prefix: str) -> Keep:
        """Pieces called ``prefix``/name."""

        def keep(name: str, compute: Callable[[], T], generator: torch.Generator | None = None) -> T:
            return self(f"{prefix}/{name}", compute, generator)

        return keep

    def _plain(self, value: Any) -> Any:
        """As checkpoints take it: what they do not know becomes {kind: …, of: …}."""
        kind = type(value).__name__
        if isinstance(value, np.ndarray):
            return {"kind": "ndarray", "of": torch.from_numpy(np.ascontiguousarray(value))}
        if isinstance(value, np.generic):
            return value.item()
        if kind in self._kinds:
            names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else value._fields
            return {"kind": kind, "of": {name: self._plain(getattr(value, name)) for name in names}}
        if isinstance(value, dict):
            return {"kind": "dict", "of": [[self._plain(k), self._plain(v)] for k, v in value.items()]}
        if kind in ("list", "tuple"):
            return {"kind": kind, "of": [self._plain(v) for v in value]}
        return value

    def _built(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind, content = value["kind"], value["of"]
        if kind in self._kinds:
            return self._kinds[kind](**{name: self._built(v) for name, v in content.items()})
        build: dict[str, Callable[[Any], Any]] = {
            "ndarray": lambda tensor: tensor.numpy(),
            "dict": lambda pairs: {self._built(k): self._built(v) for k, v in pairs},
            "list": lambda values: [self._built(v) for v in values],
            "tuple": lambda values: tuple(self._built(v) for v in values),
        }
        return build[kind](content)
