"""Configuration of a search for hyperparameters (`scripts/search.py`)."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from surgrad.config.validate import MISSING, not_negative, one_of, positive
from surgrad.errors import UserError
from surgrad.runs.record import REPO
from surgrad.runs.wandb import flatten
from surgrad.search.space import Range, parse_space

DIRECTIONS = ("maximize", "minimize")
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "halving", "none")

#: What a search may change without becoming another search.
NOT_IDENTITY = ("nb_trials", "workers", "study", "storage", "folder")


@dataclass
class SearchConfig:
    """What is searched, by which script, and for how long."""

    script: str = MISSING  # relative to the repository, or to here
    overrides: list[str] = field(default_factory=list)  # of every trial; on the command line: after --
    space: dict[str, Any] = field(default_factory=dict)  # key of the script: log(a,b), interval(a,b), int(a,b), …

    metric: str = "valid_acc"  # column of metrics.csv; a trial is worth its best epoch
    direction: str = "maximize"  # maximize | minimize

    nb_trials: int = 20  # in all, those of earlier starts of the same search included
    workers: int = 1  # runs at a time
    seed: int = 0  # of the sampler

    sampler: str = "tpe"  # tpe (tree-structured Parzen estimator) | random
    pruner: str = "median"  # median | halving (successive halving) | none
    startup_trials: int = 5  # trials at random, and before any is pruned
    warmup_epochs: int = 5  # of every trial, before it may be pruned

    study: str | None = None  # name; null: the script's and a hash of everything above but nb_trials and workers
    storage: str | None = None  # Optuna's, as a URL; null: SQLite in the search's folder
    folder: str | None = None  # null: Runs/search/<study> beside the script

    def __post_init__(self) -> None:
        one_of("direction", self.direction, DIRECTIONS)
        one_of("sampler", self.sampler, SAMPLERS)
        one_of("pruner", self.pruner, PRUNERS)
        positive(self, "", "nb_trials", "workers", "startup_trials")
        not_negative(self, "", "warmup_epochs")
        if self.metric.startswith("test"):
            raise UserError(f"metric={self.metric}: the test set must not choose; take valid_acc or valid_loss")
        self.space = flatten(self.space)
        # options such as --config-name first: between overrides they would end the list for Hydra's parser
        self.overrides = sorted(self.overrides, key=lambda override: not override.startswith("-"))
        self.ranges()

    def ranges(self) -> dict[str, Range]:
        """The space, key by key. Raises: UserError if it is empty or an entry cannot be read."""
        return parse_space(self.space)

    @property
    def script_path(self) -> Path:
        """Raises: UserError if there is no such file."""
        for path in (Path(self.script), REPO / self.script):
            if path.is_file():
                return path.resolve()
        raise UserError(f"script={self.script}: there is no such file, neither here nor in {REPO}")

    @property
    def identity(self) -> str:
        """Eight hex digits that change with anything that would change the trials."""
        what = {key: value for key, value in asdict(self).items() if key not in NOT_IDENTITY}
        what["script"] = os.path.relpath(self.script_path, REPO)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def study_name(self) -> str:
        return self.study or f"{self.script_path.stem}-{self.identity}"

    @property
    def search_folder(self) -> Path:
        """Where the study, its table and the run folders of its trials are."""
        if self.folder is not None:
            return Path(self.folder).resolve()
        return self.script_path.parent / "Runs" / "search" / self.study_name
