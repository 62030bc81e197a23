"""Which runs a command line stands for: composed as Hydra would, and not started."""

import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from surgrad.config.check import check_settings
from surgrad.config.command_line import options
from surgrad.config.composing import Composer
from surgrad.config.explain import CONFIG_ERRORS, explain
from surgrad.errors import UserError
from surgrad.runs.record import REPO


@dataclass(frozen=True, eq=False)
class Job:
    """A run that a command line asks for.

    Args:
        overrides: of the command line, as Hydra reads them.
        choices: the option chosen for each group.
        composed: the composed configuration, without Hydra's node.
        schema: dataclass of the suite.
    """

    overrides: tuple[str, ...]
    choices: Mapping[str, Any]
    composed: DictConfig
    schema: type

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration as a run folder records it."""
        settings: dict[str, Any] = check_settings(self.composed, self.schema)[1]
        return settings

    def get(self, key: str) -> Any:
        """The option chosen for a group, or a value of the configuration by its dotted key; None without one."""
        return self.choices[key] if key in self.choices else OmegaConf.select(self.composed, key)


@cache
def jobs_of_command(line: str) -> tuple[Job, ...]:
    """The runs of `python3 <script of a suite> …`, a line as it is typed in the repository's root.

    Lines that start no run, such as `python3 scripts/download_data.py …`, have none.

    Raises:
        UserError: for a script that is not there, or a mistake in a configuration.
    """
    program, script, *arguments = shlex.split(line)
    if program != "python3" or not (REPO / script).is_file():
        raise UserError(f"{line}: give python3 and a script of the repository, such as Classification/dense_SNN.py")
    if script.startswith("scripts/"):
        return ()
    (command,) = (value for value in vars(_module(REPO / script)).values() if hasattr(value, "jobs"))
    return tuple(command.jobs(arguments))


def _module(file: Path) -> ModuleType:
    """A script, imported once per process under the name that the workers of a sweep use."""
    name = f"surgrad_script_{file.stem}"
    module = sys.modules.get(name)
    if module is None or module.__file__ != str(file):
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


def jobs(configs: Path, schema: type, arguments: Sequence[str]) -> list[Job]:
    """The runs of a command line.

    Args:
        configs: a suite's configurations.
        schema: its dataclass.
        arguments: what follows the script.
    """
    parsed = get_args_parser().parse_args(list(arguments))
    name, overrides = parsed.config_name or "config", list(parsed.overrides)
    try:
        with initialize_config_dir(str(configs), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            if not parsed.multirun:
                composed = loader.load_configuration(name, overrides, run_mode=RunMode.RUN)
                return [_job(overrides, composed, schema)]
            master = loader.load_configuration(name, overrides, run_mode=RunMode.MULTIRUN)
            swept = master.hydra.sweeper.get("params") or {}
            lines = [*(f"{key}={value}" for key, value in swept.items()), *master.hydra.overrides.task]
            parser = OverridesParser.create(config_loader=loader)
            (products,) = BasicSweeper.split_arguments(parser.parse_overrides(lines), None)
            composed_jobs = Composer(loader, master)([list(product) for product in products])
            return [_job(product, composed, schema) for product, composed in composed_jobs]
    except CONFIG_ERRORS as error:
        raise UserError(f"{' '.join(arguments)}: {explain(error, options('.', [configs]))}") from error


def _job(overrides: Sequence[str], composed: DictConfig, schema: type) -> Job:
    """A job with a copy of what is composed for it."""
    choices = cast(dict[str, Any], OmegaConf.to_container(composed.hydra.runtime.choices))
    with open_dict(composed):
        del composed["hydra"]
    return Job(tuple(overrides), choices, composed.copy(), schema)
