"""Run folders being read: which run a configuration is, and what its folder holds."""

import dataclasses
import glob
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from surgrad.paths import ROOT
from surgrad.runs import files
from surgrad.runs.wandb import flatten

REPO = ROOT


#: Top-level keys that say where and how a run is computed, shown or logged, not what it computes.
NOT_IDENTITY = frozenset(
    {"wandb", "using_wandb", "plotting", "plot", "device", "num_threads", "kernel", "memory", "logging", "logging_freq"}
    | {"data_dir", "rerun", "hydra"}
)


# ---------------------------------------------------------------- which run is this
def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes a run the run it is, flattened, paths relative to the repository."""
    what = {k: v for k, v in flatten(files.plain(config)).items() if k.split(".")[0] not in NOT_IDENTITY}
    return {k: v.replace(f"{REPO}/", "") if isinstance(v, str) else v for k, v in what.items()}


def run_id(config: Mapping[str, Any]) -> str:
    """Eight hex digits that change with any key of `identity(config)`; a changed run gets another folder."""
    canonical = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


# ---------------------------------------------------------------- runs being read
@dataclasses.dataclass(frozen=True, eq=False)
class RunRecord:
    """A run folder, read only. Files are read when asked for, once."""

    folder: Path

    @property
    def name(self) -> str:
        """The path below the last folder called Runs."""
        parts = self.folder.parts
        below = parts[len(parts) - parts[::-1].index("Runs") :] if "Runs" in parts else parts[-1:]
        return "/".join(below)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The nested configuration, interpolations resolved."""
        return _read_yaml(self.folder / "config.yaml")

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted key, e.g. "method.name"."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns of metrics.csv; nan where a row has no value."""
        return files.read_metrics(self.folder / "metrics.csv")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return files.read_json(self.folder / "summary.json")

    @property
    def status(self) -> str:
        """done, failed, interrupted, or running; a run whose process died is interrupted."""
        status = self.summary.get("status", "interrupted")
        return "interrupted" if status == "running" and not files.is_locked(self.folder) else status

    @property
    def reason(self) -> str:
        """Why it is neither done nor running, in one line."""
        if self.status == "failed":
            return str(self.summary.get("error", ""))
        if self.status == "interrupted" and self.summary.get("status") == "interrupted":
            return "stopped by a signal"
        if self.status == "interrupted":
            return "its process died without a word (kill -9, out of memory, power)"
        return ""

    @cached_property
    def overrides(self) -> list[str]:
        """The overrides of the command line that started it; none if it was not started by a script."""
        path = self.folder / ".hydra" / "overrides.yaml"
        return list(OmegaConf.load(path)) if path.exists() else []

    @property
    def states(self) -> list[str]:
        """Names of the recorded arrays."""
        return files.state_names(self.folder / "state.h5")

    def state(self, name: str) -> np.ndarray:
        """A recorded array. Raises KeyError naming those there are."""
        return files.read_state(self.folder / "state.h5", name)[0]

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes (units, …) of a recorded array."""
        return files.read_state(self.folder / "state.h5", name)[1]

    def checkpoint(self) -> dict[str, Any] | None:
        """The last readable checkpoint, on the CPU."""
        return files.load_checkpoint(self.folder)


def load_runs(where: str | Path | Iterable[str | Path]) -> list[RunRecord]:
    """All run folders at or below what `where` names: a folder, a glob ("Classification/Runs/**"), or a list of them.

    Folders that are no run folder are passed over, and so are hidden ones. Raises FileNotFoundError if no run is found.
    """
    patterns = [where] if isinstance(where, str | Path) else list(where)
    found: set[Path] = set()
    for pattern in map(str, patterns):
        matches = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else [pattern]
        if not glob.has_magic(pattern) and not _is_run(Path(pattern)):
            matches = glob.glob(f"{glob.escape(pattern)}/**/", recursive=True)
        if not matches and os.path.isdir(pattern):  # a folder such as `seed=1[a]` reads as a glob
            matches = [pattern]
        found |= {Path(match).resolve() for match in matches if _is_run(Path(match))}
    if not found:
        raise FileNotFoundError(
            f"no run folder matches {', '.join(map(str, patterns)) or 'an empty list'} (from {Path.cwd()}): "
            "a run folder holds config.yaml and summary.json"
        )
    return [RunRecord(folder) for folder in sorted(found)]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "summary.json").is_file()


def _read_yaml(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else {}


def last_value(run: RunRecord, column: str) -> float:
    """The last value of a column of metrics.csv that is a number, NaN without one."""
    values = run.metrics.get(column, np.array([]))
    values = values[~np.isnan(values.astype(float))]
    return float(values[-1]) if len(values) else math.nan
