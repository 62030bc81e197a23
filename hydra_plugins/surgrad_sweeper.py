"""Hydra finds plugins in a package of this name; what this one does is in surgrad/config/sweeps.py."""

import inspect
import os
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(BasicSweeper):
    """The product of all values on the command line, less what is done already; ends with a table of all runs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from surgrad.config import launchers  # only here: every Hydra application looks at every plugin

        launchers.require(config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.schema = vars(task_function)["schema"]
        script = Path(inspect.getfile(inspect.unwrap(task_function))).parent
        self.python_path = os.pathsep.join(filter(None, [str(script), os.environ.get("PYTHONPATH")]))

    def sweep(self, arguments: list[str]) -> None:
        """Raises JobFailed if not all runs are done in the end; UserError for a mistake in any of them, before all."""
        from surgrad.config import sweeps
        from surgrad.config.composing import Composer
        from surgrad.config.names import sweep_of

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        (products,) = self.split_arguments(overrides, None)
        with sweep_of(products):
            jobs = sweeps.plan(Composer(loader, self.config)(products), self.schema)
        group = os.environ.get("WANDB_RUN_GROUP") or " ".join(arguments)[:128]  # the longest that wandb takes
        # workers import what the script imports beside it
        with env_override({"PYTHONPATH": self.python_path, "WANDB_RUN_GROUP": group}):
            sweeps.run(jobs, self.launcher.launch, self.max_batch_size)
