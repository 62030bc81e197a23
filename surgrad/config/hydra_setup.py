"""Our defaults for Hydra's own settings, its record in the run folder, and its command line."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from surgrad.config import launchers
from surgrad.runs import files


def _write_hydra(folder: Path, composed: DictConfig) -> None:
    """Hydra's own record; written here, because Hydra would overwrite that of another run before it can be checked."""
    job = HydraConfig.get()
    (folder / ".hydra").mkdir(exist_ok=True)
    record = {"config": composed, "hydra": OmegaConf.create({"hydra": job}), "overrides": job.overrides.task}
    for name, content in record.items():
        files.write_text(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content))


def _remove_empty(folder: Path) -> None:
    """Hydra makes the folder before the configuration can be looked at: leave none behind for a mistyped command."""
    above = [path for path in folder.parents if "Runs" in path.parts]
    for path in (folder, *above):
        try:
            path.rmdir()
        except OSError:  # not empty
            return


def _store(schema: type, runs: Path, run_name: str) -> None:
    """Hand Hydra the schema and the house's defaults for its own settings."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    name = f"{run_name}-${{run_id:}}"
    output = {"run": {"dir": f"{runs}/{name}"}, "sweep": {"dir": str(runs), "subdir": name}}
    store.store(group="hydra/output", name="surgrad", node=output, package="hydra")
    for group, label in (("job_logging", "${job_label:}"), ("hydra_logging", "")):
        logging_config = {
            "version": 1,
            "formatters": {"short": {"format": f"%(asctime)s {label}%(message)s", "datefmt": "%H:%M:%S"}},
            "handlers": {"console": {"class": "surgrad.runs.log.ConsoleHandler", "formatter": "short"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            "disable_existing_loggers": False,
        }
        store.store(group=f"hydra/{group}", name="surgrad", node=logging_config, package=f"hydra.{group}")
    sweeper = {"_target_": "hydra_plugins.surgrad_sweeper.StudySweeper", "max_batch_size": None, "params": None}
    store.store(group="hydra/sweeper", name="surgrad", node=sweeper, package="hydra.sweeper")
    launchers.store_all(store)
    ours = dict.fromkeys(("output", "sweeper", "job_logging", "hydra_logging"), "surgrad")
    house = HydraConf(output_subdir=None)
    house.defaults = [{k: ours.get(k, v) for k, v in group.items()} for group in house.defaults]
    house.defaults.sort(key=lambda group: "launcher" in group)  # last, since it may say how many jobs make a batch
    store.store(group="hydra", name="config", node=house, provider="surgrad")


@contextmanager
def _command_line(arguments: Sequence[str] | None) -> Iterator[None]:
    """The command line as Hydra will see it; a relative --config-path that exists here is meant from here."""
    before = sys.argv
    given = [str(a) for a in (before[1:] if arguments is None else arguments)]
    for i, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        if option in ("--config-path", "-cp") and equals and os.path.isdir(value):
            given[i] = f"{option}={os.path.abspath(value)}"
        elif i and given[i - 1] in ("--config-path", "-cp") and os.path.isdir(argument):
            given[i] = os.path.abspath(argument)
    sys.argv = [before[0], *given]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _errors_as_raised() -> Iterator[bool]:
    """Hydra prints errors itself and exits, unless this variable is set: the door says them in one line instead."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield before not in (None, "", "0")
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
