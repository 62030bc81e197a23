"""Our defaults for Hydra's own settings, its record in the run folder, and its errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import cast, get_origin, get_type_hints

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from surgrad.config import launchers
from surgrad.runs import files
from surgrad.runs.record import REPO

#: Folders of configurations: one for each suite, and `shared` with the groups that suites have in common.
CONFIGS = REPO / "configs"


def write_record(folder: Path, composed: DictConfig) -> None:
    """Hydra's own record; written here, because Hydra would overwrite that of another run before it can be checked."""
    job = HydraConfig.get()
    (folder / ".hydra").mkdir(exist_ok=True)
    record = {"config": composed, "hydra": OmegaConf.create({"hydra": job}), "overrides": job.overrides.task}
    for name, content in record.items():
        files.write_text(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content))


def remove_empty(folder: Path) -> None:
    """Hydra makes the folder before the configuration can be looked at: leave none behind for a mistyped command."""
    above = [path for path in folder.parents if "Runs" in path.parts]
    for path in (folder, *above):
        try:
            path.rmdir()
        except OSError:  # not empty
            return


def store(schema: type, runs: Path, run_name: str, help_text: str = "") -> None:
    """Hand Hydra the schema, our defaults for its own settings, and what --help says."""
    config_store = ConfigStore.instance()
    config_store.store(name="schema", node=_open(schema))
    above, _, leaf = run_name.rpartition("/")
    above += "/" * bool(above)
    names = [f'${{run_leaf:"{where}/{above}","{leaf}"}}' for where in (runs, "${hydra.sweep.dir}")]
    output = {
        "run": {"dir": f"{runs}/{above}{names[0]}"},
        "sweep": {"dir": str(runs), "subdir": f"{above}{names[1]}"},
    }
    config_store.store(group="hydra/output", name="surgrad", node=output, package="hydra")
    for group, label in (("job_logging", "${job_label:}"), ("hydra_logging", "")):
        logging_config = {
            "version": 1,
            "formatters": {"short": {"format": f"%(asctime)s {label}%(message)s", "datefmt": "%H:%M:%S"}},
            "handlers": {"console": {"class": "surgrad.runs.log.ConsoleHandler", "formatter": "short"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            "disable_existing_loggers": False,
        }
        config_store.store(group=f"hydra/{group}", name="surgrad", node=logging_config, package=f"hydra.{group}")
    sweeper = {"_target_": "hydra_plugins.surgrad_sweeper.StudySweeper", "max_batch_size": None, "params": None}
    config_store.store(group="hydra/sweeper", name="surgrad", node=sweeper, package="hydra.sweeper")
    launchers.store_all(config_store)
    ours = dict.fromkeys(("output", "sweeper", "job_logging", "hydra_logging"), "surgrad")
    settings = HydraConf(output_subdir=None)
    if help_text:
        settings.help.template = help_text.replace("$", "$$")
    settings.defaults = [{k: ours.get(k, v) for k, v in group.items()} for group in settings.defaults]
    settings.defaults.sort(key=lambda group: "launcher" in group)  # last, since it may say how many jobs make a batch
    config_store.store(group="hydra", name="config", node=settings, provider="surgrad")


def _open(schema: type) -> DictConfig:
    """The schema as a node, in which `key.new=value` adds to a dict of no fixed keys, such as optimizer_options."""
    node: DictConfig = OmegaConf.structured(schema)
    hints = get_type_hints(schema)
    for field in fields(schema):
        if get_origin(hints[field.name]) is dict:
            OmegaConf.set_struct(cast(DictConfig, node._get_node(field.name)), False)
    return node


@contextmanager
def errors_as_raised() -> Iterator[bool]:
    """Hydra prints errors itself and exits, unless this variable is set: `entry` says them in one line instead."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield before not in (None, "", "0")
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
