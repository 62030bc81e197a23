"""The mirror of a run on Weights & Biases; the run folder itself is the record."""

import json
import logging
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

from surgrad.errors import UserError

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")

_CHUNK = 1 << 16  # bytes written at once
_START_SECONDS = 120.0  # wandb gives up on a server after 90
_OFFLINE_SECONDS = 60.0  # to finish what is on this machine
_UPLOAD_SECONDS = 600.0  # to finish an upload
_STOP_SECONDS = 5.0  # to say why it stopped


@dataclass
class WandbConfig:
    """Where a run is mirrored to. mode: offline (no account; `wandb sync` uploads it later), online, disabled."""

    mode: str = field(default_factory=lambda: os.environ.get("WANDB_MODE", "offline"))  # offline | online | disabled
    project: str | None = None  # where the run appears
    entity: str | None = None  # user or team
    group: str | None = None  # runs that belong together; a sweep gives its own
    job_type: str | None = None  # kind of run within a group
    name: str | None = None  # of the run; null: that of its folder
    notes: str | None = None  # free text
    tags: list[str] = field(default_factory=list)  # words to filter by
    checkpoints: bool = False  # the last checkpoint as an artifact

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"wandb.mode={self.mode}: unknown; allowed: {', '.join(MODES)}")


class Mirror(Protocol):
    """What a run sends to its mirror."""

    id: str | None

    def log(self, row: Mapping[str, Any]) -> None: ...
    def image(self, name: str, path: Path, epoch: int | None) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...


class NoMirror:
    """The mirror of a run with wandb disabled."""

    id: str | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        pass

    def image(self, name: str, path: Path, epoch: int | None) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass


class WandbMirror:
    """Passes rows, figures and final numbers to the process that calls wandb; after a failure it stays silent.

    Nothing here waits for wandb: what its process cannot take yet is held in memory, in order.
    """

    def __init__(self, config: WandbConfig, folder: Path, run_config: Mapping[str, Any], run_id: str | None) -> None:
        self.id: str | None = os.environ.get("WANDB_RUN_ID") or run_id or secrets.token_hex(4)  # a sweep's agent first
        self._offline = config.mode == "offline"
        self._unsent = bytearray()
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the run, which then asks its mirror to finish
            env={"WANDB_DATA_DIR": str(folder / "wandb"), **os.environ},  # where artifacts wait for their upload
        )
        self._input = cast(IO[bytes], self._process.stdin)
        if hasattr(os, "set_blocking"):
            os.set_blocking(self._input.fileno(), False)
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(self._process.stdout, self._answers), daemon=True).start()
        init = {
            "mode": config.mode,
            "dir": str(folder),
            "id": self.id,
            "resume": "allow" if run_id and not self._offline else None,
            "project": config.project or "surgrad",
            "entity": config.entity,
            "group": config.group,
            "job_type": config.job_type,
            "name": config.name or folder.name,
            "notes": config.notes,
            "tags": list(config.tags) or None,
            "config": flatten(run_config),
        }
        settings = {"x_stats_pid": os.getpid(), "program": sys.argv[0]}
        self._send("start", {"argv": sys.argv, "init": init, "settings": settings})

    def log(self, row: Mapping[str, Any]) -> None:
        self._send("log", dict(row))

    def image(self, name: str, path: Path, epoch: int | None) -> None:
        row = {} if epoch is None else {"epoch": epoch}
        self._send("image", {"name": f"Plots/{name}", "path": str(path), "row": row})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._send("summary", dict(values))

    def checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self._send("checkpoint", {"path": str(path), "metadata": dict(metadata)})

    def started(self) -> str | None:
        """Wait until wandb knows the run; its address, None if there is no answer. Raises UserError if it refuses."""
        kind, content = self._receive(_START_SECONDS)
        if kind == "refused":
            self._leave()
            reason = content.split(". ")[0].rstrip(".")
            raise UserError(
                f"wandb.mode=online: {reason}; run `wandb login`, set WANDB_API_KEY, or take wandb.mode=offline"
            )
        if kind == "started":
            return content
        self._stop(content)
        return None

    def finish(self, exit_code: int) -> None:
        """Pass on what is left and let wandb finish; after a while it is left to finish by itself."""
        self._send("finish", exit_code)
        deadline = time.monotonic() + (_OFFLINE_SECONDS if self._offline else _UPLOAD_SECONDS)
        while self._process is not None and self._unsent and time.monotonic() < deadline:
            time.sleep(0.01)
            self._write()
        kind = "started"
        while self._process is not None and kind == "started":
            kind, content = self._receive(max(deadline - time.monotonic(), 0.0))
            if kind in ("stopped", "refused"):
                self._stop(content)
            elif kind == "late":
                log.warning("wandb is still busy in process %d; the run folder holds everything", self._process.pid)
        self._leave(wait=kind == "finished")

    def _send(self, kind: str, content: Any) -> None:
        if self._process is not None:
            self._unsent += json.dumps({kind: content}, default=_plain).encode() + b"\n"
            self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                written = os.write(self._input.fileno(), self._unsent[:_CHUNK])
                del self._unsent[:written]
        except BlockingIOError:  # the pipe is full: later
            pass
        except OSError:  # nobody reads any more
            kind, content = "started", ""
            while kind == "started":
                kind, content = self._receive(_STOP_SECONDS)
            self._stop(content)

    def _receive(self, seconds: float) -> tuple[str, Any]:
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return "late", f"no answer within {seconds:.0f} s"

    def _stop(self, reason: str) -> None:
        """A mirror must never end a training that may have taken days."""
        log.warning("wandb stopped (%s); the run goes on, its folder holds everything", reason)
        self._leave()

    def _leave(self, wait: bool = False) -> None:
        if self._process is None:
            return
        self._input.close()
        if wait:
            self._process.wait()
        self._process = None


@contextmanager
def mirror(
    config: WandbConfig | None, folder: Path, run_config: Mapping[str, Any], run_id: str | None
) -> Iterator[Mirror]:
    """Open the mirror that `config` asks for and finish it whatever happens.

    `run_id` is the id of an earlier attempt at the same run. Raises UserError for mode online without a
    key.
    """
    if config is None or config.mode == "disabled":
        yield NoMirror()
        return
    opened = WandbMirror(config, folder, run_config, run_id)
    if config.mode == "online" and (address := opened.started()):
        log.info("wandb: %s", address)
    exit_code = 1
    try:
        yield opened
        exit_code = 0
    finally:
        if config.checkpoints and (path := folder / "checkpoint.pt").exists():
            opened.checkpoint(path, {"folder": str(folder)})
        opened.finish(exit_code)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config as one level with dotted keys, as tables and filters on wandb want it."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _receive(answers: IO[bytes], received: "queue.SimpleQueue[tuple[str, Any]]") -> None:
    with answers:
        for line in answers:
            ((kind, content),) = json.loads(line).items()
            received.put((kind, content))
    received.put(("stopped", "its process ended"))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
