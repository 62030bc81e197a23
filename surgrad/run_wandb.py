"""The mirror of a run on Weights & Biases; the run folder itself is the record."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from surgrad.errors import UserError

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")


@dataclass
class WandbConfig:
    """Where a run is mirrored to. mode: offline (no account; `wandb sync` uploads it later), online, disabled."""

    mode: str = field(default_factory=lambda: os.environ.get("WANDB_MODE", "offline"))
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"wandb.mode={self.mode}: unknown; allowed: {', '.join(MODES)}")


class Mirror(Protocol):
    """What a run tells its mirror."""

    id: str | None

    def log(self, row: Mapping[str, Any]) -> None: ...
    def image(self, name: str, path: Path, epoch: int | None) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...


class NoMirror:
    """The mirror of a run with wandb disabled."""

    id = None

    def log(self, row: Mapping[str, Any]) -> None:
        pass

    def image(self, name: str, path: Path, epoch: int | None) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass


class WandbMirror:
    """Passes rows, figures and final numbers on to a wandb run; its first failure is its last word."""

    def __init__(self, run: Any, image: Callable[[str], Any]) -> None:
        self.id: str | None = run.id
        self._run = run
        self._image = image

    def log(self, row: Mapping[str, Any]) -> None:
        self._try(lambda run: run.log(dict(row)))

    def image(self, name: str, path: Path, epoch: int | None) -> None:
        row = {} if epoch is None else {"epoch": epoch}
        self._try(lambda run: run.log({f"Plots/{name}": self._image(str(path)), **row}))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._try(lambda run: run.summary.update(dict(values)))

    def _try(self, action: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a mirror must never end a training that may have taken days
            log.warning("wandb stopped (%s); the run goes on, its folder holds everything", _line(error))
            self._run = None


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
    import wandb  # only here: a run with wandb disabled must not need it

    def start(mode: str) -> Any:
        return wandb.init(
            mode=mode,
            dir=folder,
            id=run_id,
            resume="allow" if run_id and mode == "online" else None,
            project=config.project or "surgrad",
            entity=config.entity,
            group=config.group,
            job_type=config.job_type,
            name=config.name,
            notes=config.notes,
            tags=list(config.tags) or None,
            config=flatten(run_config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    run: Any = None
    try:
        run = start(config.mode)
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        reason = _line(error).split(". ")[0].rstrip(".")
        raise UserError(
            f"wandb.mode={config.mode}: {reason}; run `wandb login`, set WANDB_API_KEY, or take wandb.mode=offline"
        ) from error
    except Exception as error:  # no network must not keep a run from starting
        log.warning("wandb could not start (%s); the run goes on, its folder holds everything", _line(error))
    if run is None:
        yield NoMirror()
        return
    try:
        run.define_metric("*", step_metric="epoch")
        if config.mode == "online":
            log.info("wandb: %s", run.url)
        yield WandbMirror(run, wandb.Image)
    except BaseException:
        _finish(run, exit_code=1)
        raise
    _finish(run, exit_code=0)


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


def _finish(run: Any, exit_code: int) -> None:
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:
        log.warning("wandb did not finish (%s); the run folder holds everything", _line(error))


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
