"""Where the jobs of a sweep run: configs/launcher, and what those files ask of this machine."""

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from surgrad.errors import UserError
from surgrad.runs.record import REPO

FOLDER = REPO / "configs" / "launcher"


def jobs() -> int:
    """`${jobs:}`: how many jobs this machine runs side by side, one per GPU or, without one, per core."""
    return _available("gpus") or _available("cores")


def per_job(resource: str, nb_jobs: int | None = None) -> int:
    """`${per_job:cores,4}`: the cores or gpus of this machine for each of some jobs, default `jobs()`.

    At least one core; a number of jobs below 0 means one per core, as in joblib.
    """
    nb_jobs = jobs() if nb_jobs is None else int(nb_jobs)
    available = _available(resource)
    if nb_jobs <= 0:
        nb_jobs = _available("cores")
    return max(1 if resource == "cores" else 0, available // nb_jobs)


def _available(resource: str) -> int:
    if resource == "gpus":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take_gpu(device: torch.device, job: Any) -> None:
    """Spread the jobs of a sweep that see the same GPUs over them; does nothing for a GPU with a number, or a CPU."""
    if device == torch.device("cuda") and not OmegaConf.is_missing(job, "num"):
        torch.cuda.set_device(job.num % torch.cuda.device_count())


def require(config: DictConfig) -> None:
    """Raise UserError if the package of the launcher that `config` asks for is not installed."""
    package = ".".join(str(config.hydra.launcher.get("_target_")).split(".")[:2])
    if package.startswith("hydra_plugins.") and importlib.util.find_spec(package) is None:
        name = package.split(".")[1].replace("_", "-")
        choice = config.hydra.runtime.choices["hydra/launcher"]
        raise UserError(f"hydra/launcher={choice}: {name} is not installed; pip install -e .[sweep]")


def job_label(_root_: DictConfig) -> str:
    """`${job_label:}`: which job of a sweep a line of the log is from; nothing without -m."""
    number = OmegaConf.select(_root_, "hydra.job.num")
    return "" if number is None else f"#{number} "


def store_all(store: ConfigStore) -> None:
    """Hand Hydra the files of configs/launcher as the options of hydra/launcher.

    They take the place of those that plugins bring, which Hydra would else take for the schemas of files of that name.
    """
    Plugins.instance()  # brings the others
    for name, node in _files().items():
        store.store(group="hydra/launcher", name=name, node=node, package="hydra", provider="surgrad")


@cache
def _files() -> dict[str, Any]:
    return {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in FOLDER.glob("*.yaml")}


# process-wide, as Hydra's own resolvers are; workers register them by importing this module
for _resolver in (jobs, per_job, job_label):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
