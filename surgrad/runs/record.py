"""Run folders being read: which run a configuration is, and what its folder holds."""

import dataclasses
import glob
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from surgrad.errors import UserError
from surgrad.paths import ROOT
from surgrad.runs import checkpoint, files, marker, states
from surgrad.runs.lock import is_locked
from surgrad.runs.metrics import MetricsTable, read_metrics
from surgrad.runs.wandb import flatten

log = logging.getLogger(__name__)

REPO = ROOT


#: Top-level keys that say where and how a run is computed, shown or logged, not what it computes.
NOT_IDENTITY = frozenset(
    {"wandb", "using_wandb", "plotting", "plot", "device", "num_threads", "kernel", "memory", "logging", "logging_freq"}
    | {"data_dir", "cuda_graph", "rerun", "hydra", "count_baseline"}
)

#: Keys that configurations have had since some later version, dotted, and the value with which a run computes what it
#: computed before there was the key, given the flattened configuration. At that value a key is no part of the identity,
#: so that ids stay as they were. Whoever adds a key to a schema enters it here.
LATER_KEYS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "init_from": lambda flat: None,
    "frozen": lambda flat: [],
    "lr_schedule": lambda flat: {},
    "dataset.counted": lambda flat: False,
    **{f"dataset.augment.{name}": lambda flat: 0.0 for name in ("time_mask", "unit_mask", "p_cutmix")},
    "dataset.units_per_channel": lambda flat: 1,
    "dataset.train_speakers": lambda flat: None,
    "connection": lambda flat: {},  # of deep_convSNN.py; dense_SNN.py always has a node
    "readout_connection": lambda flat: {},
    "recurrent_connection": lambda flat: {},
    "recurrent_dropout": lambda flat: 0.0,
    "spiking_readout": lambda flat: False,
    "neuron.scheme": lambda flat: "symplectic",
    "synaptic_too": lambda flat: True,
    "normalization": lambda flat: {},
    "dropout": lambda flat: 0.0,
    "weight_decay": lambda flat: None,
    "grad_clip": lambda flat: None,
    "early_stopping": lambda flat: 0,
    "ema": lambda flat: 0.0,
    "loss_start": lambda flat: 0.0,
    "label_smoothing": lambda flat: 0.0,
    "lr_delay": lambda flat: None,
    "lr_adaptation": lambda flat: None,
    "surrogate": lambda flat: {},  # of deep_convSNN.py, where it is a node
    "escape_noise": lambda flat: {},
    "neuron": lambda flat: {},  # of deep_convSNN.py, too
    "initializer": lambda flat: {},
    "regularizers": lambda flat: {} if "method.name" in flat else None,  # dense_SNN.py always had them
    "time_constants": lambda flat: {} if "method.name" in flat else None,  # as regularizers
    "time_constants_of": lambda flat: "channel",
    "lr_tau": lambda flat: None if "method.name" in flat else 0.0,
    "dataset.augmentations": lambda flat: {},
    "nb_spikes": lambda flat: 5,  # of run_superspike.py, which always read a target
    "dataset.pool_size": lambda flat: [],
    "dataset.pool_kind": lambda flat: "max",
    "dataset.residual": lambda flat: [],
    # the embedded digits were 18 recordings of each speaker and class, and of other data sets all were taken
    "dataset.limit": lambda flat: 18 if flat.get("dataset.name") == "spiking_digits" else None,
}


# ---------------------------------------------------------------- which run is this
def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes a run the run it is, flattened, paths relative to the repository."""
    what = {k: v for k, v in flatten(files.plain(config)).items() if k.split(".")[0] not in NOT_IDENTITY}
    what = {k: v for k, v in what.items() if k not in LATER_KEYS or v != LATER_KEYS[k](what)}
    return {k: v.replace(f"{REPO}/", "") if isinstance(v, str) else v for k, v in what.items()}


def run_id(config: Mapping[str, Any]) -> str:
    """Eight hex digits that change with any key of `identity(config)`; a changed run gets another folder."""
    canonical = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def shorter(config: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the runs that differ from this one by fewer epochs only, with their numbers of epochs."""
    same, nb_epochs = identity(config), config.get("nb_epochs")
    if not isinstance(nb_epochs, int):
        return {}
    ids = {}
    for fewer in range(1, nb_epochs):
        canonical = json.dumps(same | {"nb_epochs": fewer}, sort_keys=True)
        ids[hashlib.sha256(canonical.encode()).hexdigest()[:8]] = fewer
    return ids


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
        """The nested configuration, interpolations resolved. Raises Damaged if it is not what was written."""
        found = marker.read_marker(self.folder)
        return read_config(self.folder) if found is None else dict(marker.require_config(self.folder, found))

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
        """Columns of metrics.csv; nan where a row has no value. Raises Damaged."""
        return read_metrics(self.folder / "metrics.csv")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json. Raises Damaged if it is missing, unreadable, or not what was written."""
        return files.read_json(self.folder / "summary.json", sealed=marker.is_sealed(self.folder))

    @cached_property
    def damage(self) -> str:
        """Why configuration, summary or metrics are not what was written, in one line; empty if they are."""
        try:
            _ = self.config, self.metrics
            rows = self.summary.get("metrics")
        except files.Damaged as error:
            return f"{error.path.name}: {error.why}"
        if self.summary.get("status") == "done" and isinstance(rows, Mapping):
            return MetricsTable(self.folder / "metrics.csv").holds(rows)
        return ""

    @property
    def status(self) -> str:
        """done, failed, interrupted, running, or damaged; a run whose process died is interrupted."""
        if self.damage:
            return "damaged"
        status = str(self.summary.get("status", "interrupted"))
        return "interrupted" if status == "running" and not is_locked(self.folder) else status

    @property
    def reason(self) -> str:
        """Why it is neither done nor running, in one line."""
        if self.damage:
            return self.damage
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
        content = files.read_yaml(path) if path.exists() else []
        return [str(override) for override in content] if isinstance(content, list) else []

    @property
    def script(self) -> str | None:
        """Name of the script that it is a run of; None if it was not started by one."""
        path = self.folder / ".hydra" / "hydra.yaml"
        content = files.read_yaml(path) if path.exists() else {}
        for part in ("hydra", "job", "name"):
            content = content.get(part) if isinstance(content, Mapping) else None
        return content if isinstance(content, str) else None

    @property
    def states(self) -> list[str]:
        """Names of the recorded arrays. Raises Damaged."""
        return states.state_names(self.folder)

    def state(self, name: str) -> np.ndarray:
        """A recorded array. Raises KeyError naming those there are; Damaged."""
        return states.read_state(self.folder, name)[0]

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes (units, …) of a recorded array."""
        return states.read_state(self.folder, name)[1]

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, on the CPU."""
        found = checkpoint.load_checkpoint(self.folder, sealed=marker.is_sealed(self.folder))
        return None if found is None else found[0]

    def require_checkpoint(self) -> dict[str, Any]:
        """The last checkpoint that is whole. Raises UserError if there is none."""
        content = self.checkpoint()
        if content is None:
            raise UserError(f"{self.folder} holds no checkpoint: there are no weights to read")
        return content

    def trained(self, which: str = "best") -> tuple[dict[str, Any], int]:
        """Weights of a network, "best" of the best validation epoch or "last", and the number of that epoch.

        Raises UserError if there is no checkpoint, or it is not one of a network.
        """
        content = self.require_checkpoint()
        if "best" not in content:
            raise UserError(f"{self.folder} holds no checkpoint of a network")
        best = content["best"]
        return (best["weights"], best["epoch"]) if which == "best" else (content["model"], content["epoch"])


def load_runs(where: str | Path | Iterable[str | Path], *, damaged: bool = False) -> list[RunRecord]:
    """All run folders at or below what `where` names: a folder, a glob ("Classification/Runs/**"), or a list of them.

    Folders that are no run folder are passed over, and so are hidden ones; damaged runs are passed over with a warning,
    unless `damaged`. Raises FileNotFoundError if no run is found.
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
    records = [RunRecord(folder) for folder in sorted(found)]
    return records if damaged else [record for record in records if _is_whole(record)]


def _is_whole(record: RunRecord) -> bool:
    if record.damage:
        log.warning(
            "passed over %s: damaged (%s); see `python3 -m surgrad.runs show|repair`", record.folder, record.damage
        )
    return not record.damage


def _is_run(folder: Path) -> bool:
    marked = (folder / marker.NAME).is_file()
    return marked or ((folder / "config.yaml").is_file() and (folder / "summary.json").is_file())


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a run folder. Raises Damaged for what no run can have written there."""
    content = files.read_yaml(folder / "config.yaml")
    if not isinstance(content, dict):
        raise files.Damaged(folder / "config.yaml", "no mapping")
    return {str(k): v for k, v in content.items()}


def last_value(run: RunRecord, column: str) -> float:
    """The last value of a column of metrics.csv that is a number, NaN without one."""
    values = run.metrics.get(column, np.array([]))
    values = values[~np.isnan(values.astype(float))]
    return float(values[-1]) if len(values) else math.nan
