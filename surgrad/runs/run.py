"""A run folder being written: rows, arrays, figures, checkpoints, and the status that is left."""

import logging
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgrad.errors import UserError
from surgrad.runs import checkpoint, environment, files, marker, states
from surgrad.runs.lock import NAMES
from surgrad.runs.metrics import MetricsTable
from surgrad.runs.wandb import Mirror, NoMirror

log = logging.getLogger(__name__)

_SYNC_SECONDS = 1.0  # between two times that summary and names of files are brought to the disk
_STATE_BUFFER = 64 * 2**20  # bytes of recorded arrays held back, so that one epoch's arrays are one write


class Run:
    """An open run folder. Obtained from `open_run`."""

    def __init__(
        self,
        folder: Path,
        summary: dict[str, Any],
        resuming: bool,
        *,
        sealed: bool = True,
        shorter: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.resuming = resuming  # an earlier attempt left a checkpoint: load_checkpoint() gives it
        self.summary = summary  # final numbers go here; written at each checkpoint and at the end
        self._shorter = shorter  # ids of the runs of fewer epochs, whose checkpoints it goes on from
        self._sealed = sealed  # a checkpoint without a checksum of its own is refused
        self._metrics = MetricsTable(folder / "metrics.csv")
        self._pending: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        self._states: list[str] = []
        self._mirror: Mirror = NoMirror()
        self._seconds_before = environment.number(summary.get("wall_seconds"))
        self._opened = self._summary_written = time.monotonic()
        self._names_synced = 0.0
        self._checkpoint_verified = False
        self._closed = False

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row {"epoch": …, "train_loss": …} to metrics.csv; an epoch logged twice in a row is one row."""
        self._metrics.add(row)
        self._mirror.log(row)

    def rewind(self, epoch: int | None) -> None:
        """Drop the rows of metrics.csv after `epoch`, all of them for None: what a resumed run computes again."""
        dropped = self._metrics.rewind(epoch)
        if dropped:
            log.info("dropped %d rows of metrics.csv after epoch %s", dropped, epoch)

    def figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as Plots/<name>.png, mirror it, close it."""
        import matplotlib.pyplot as plt  # only here: readers of run folders may do without

        path = self.folder / "Plots" / f"{name}.png"
        with files.writing(self.folder / "Plots"):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"{path.parent} leads out of {self.folder}: remove the link")
        with files.replacing(path, sync=False) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        epoch = self._metrics.rows[-1].get("epoch") if self._metrics.rows else None
        self._mirror.image(name, path, int(float(epoch)) if epoch else None)
        return path

    def state(self, name: str, array: Any, units: str | None = None, **attributes: Any) -> None:
        """Record an array under `name` ("epoch_10/spikes-hid_0"); one of the same name is replaced.

        uint8 and bool arrays are chunked and compressed. Written at the next checkpoint, flush or the end, all at once:
        a killed run loses only what it will compute again. At the end all are in state.h5.
        """
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu().numpy()
        self._pending[name] = (np.array(array), {"units": units, **attributes})
        if sum(held.nbytes for held, _ in self._pending.values()) > _STATE_BUFFER:
            self._write_states()

    def checkpoint(self, content: Mapping[str, Any]) -> None:
        """Write checkpoint.pt (tensors, numbers, strings, lists and dicts only); the one before is kept.

        What was recorded before is on the disk first, and its rows and arrays are counted in the checkpoint.
        Raises TypeError if the content could not be loaded again with weights_only=True.
        """
        self._metrics.sync()
        self._write_states()
        now = time.monotonic()
        facts = {
            "run_id": self.summary.get("run_id"),
            "metrics": self._metrics.facts(),
            "states": self._states,
            "summary": files.plain(self.summary, finite=True),
        }
        due = now - self._names_synced > _SYNC_SECONDS
        checkpoint.save_checkpoint(self.folder, content, facts, verify=not self._checkpoint_verified, sync_names=due)
        self._checkpoint_verified = True
        self._names_synced = now if due else self._names_synced
        if now - self._summary_written > _SYNC_SECONDS:
            self._write_summary(sync=False)  # the checkpoint has it

    def load_checkpoint(self, *, rows: bool = True) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU; the one before if it is damaged; None if there is none to go on from.

        A checkpoint counts only if the rows and arrays that were recorded before it are all there; without `rows` only
        the arrays: for a run that logs all rows again.
        """

        def fits(content: dict[str, Any], facts: dict[str, Any]) -> str:
            return self._rows_missing(content, facts, rows) or self._arrays_missing(facts)

        found = checkpoint.load_checkpoint(self.folder, sealed=self._sealed, fits=fits)
        if found is None:
            if self.resuming:
                log.warning("no usable checkpoint in %s: starting from the beginning", self.folder)
                self.resuming = False
                self._start_over()
            return None
        content, facts = found
        self._states = list(facts.get("states") or [])
        foreign = facts and facts.get("run_id") != self.summary.get("run_id")
        if foreign:  # of fewer epochs: without what those ended with
            self._states = states.join_states(self.folder, keep=self._states)
        for key, value in (facts.get("summary") or {}).items():
            self.summary.setdefault(key, value)
        return content

    def flush(self) -> None:
        """Bring recorded arrays and summary.json up to date."""
        self._write_states()
        self._write_summary()

    def _rows_missing(self, content: dict[str, Any], facts: dict[str, Any], wanted: bool) -> str:
        """Why a checkpoint is of another run, or of rows that are not there."""
        if facts:
            if facts.get("run_id") != self.summary.get("run_id"):
                if facts.get("run_id") not in self._shorter:
                    return f"it is of the run {facts.get('run_id')}"
                if facts["metrics"]["rows"] == self.summary.get("rows_of_shorter"):
                    return "it is the end of a shorter run, whose last epoch is another"
            return self._metrics.holds(facts["metrics"]) if wanted else ""
        epoch, epochs = content.get("epoch"), {row.get("epoch") for row in self._metrics.rows}  # of an earlier version
        lost = wanted and epoch is not None and bool(epochs - {None}) and str(epoch) not in epochs
        return self._metrics.damage or (f"metrics.csv has no row of its epoch {epoch}" if lost else "")

    def _arrays_missing(self, facts: dict[str, Any]) -> str:
        """Why recorded arrays that a checkpoint counts on are not there."""
        try:
            states.require_states(self.folder, facts.get("states"))
        except files.Damaged as error:
            return str(error)
        return ""

    def _start_over(self) -> None:
        """Leave nothing of what will be computed again; what is there may be damaged, and is kept in .old/."""
        kept = {*NAMES, marker.NAME, "config.yaml", "run.log", ".hydra", "wandb"}
        target = files.set_aside(self.folder, keep=lambda entry: entry.name in kept)
        log.info("what was here is now in %s", target)
        self._metrics = MetricsTable(self.folder / "metrics.csv")
        self._states = []
        self._write_summary()

    def _write_states(self) -> None:
        if self._pending:
            states.write_states(self.folder, self._pending)
            self._states = sorted({*self._states, *self._pending})
            self._pending = {}

    def _write_summary(self, *, sync: bool = True) -> None:
        now = time.monotonic()
        self.summary["wall_seconds"] = round(self._seconds_before + now - self._opened, 3)
        self.summary |= environment.peak_memory(self.summary)
        files.write_json(self.folder / "summary.json", self.summary, sync=sync)
        self._summary_written = now

    def _close(self, error: BaseException | None) -> None:
        """Leave the status; what keeps it from being written does not hide the error that came first."""
        if self._closed:
            return
        if error is None:
            self._metrics.sync()
            self._write_states()
            self._states = states.join_states(self.folder)
            self.summary.pop("rows_of_shorter", None)
            self.summary |= {"status": "done", "metrics": self._metrics.facts(), "states": self._states}
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self.summary["status"] = "interrupted"
        else:
            self.summary |= {"status": "failed", "error": one_line(error)}
        self.summary["ended"] = environment.now()
        if error is None:
            self._write_summary()
        else:
            self._leave(error)
        self._closed = True
        self._mirror.summary(files.plain(self.summary))

    def _leave(self, error: BaseException) -> None:
        if not self.folder.exists():
            log.error("%s is gone, deleted or renamed: nothing more of the run is written", self.folder)
            return
        steps: list[Callable[[], None]] = [self._write_summary]
        if isinstance(error, KeyboardInterrupt | SystemExit | UserError):  # else these arrays may be what failed
            steps.append(self._write_states)
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            text = "".join(traceback.format_exception(error))
            steps.append(lambda: files.write_text(self.folder / "traceback.txt", text))
        for step in steps:
            try:
                step()
            except Exception as second:
                log.error("error: %s", one_line(second))


def one_line(error: BaseException) -> str:
    """An error in one line; with its type, unless it is a mistake of the user."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
