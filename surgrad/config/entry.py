"""Every experiment script begins here: its configuration is composed, checked and converted, its run folder opened."""

import functools
import importlib.util
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from surgrad.config import launchers
from surgrad.config.check import check_settings, resolved
from surgrad.config.command_line import command_line, options, translated
from surgrad.config.common import CommonConfig, resolve_device, use_threads
from surgrad.config.explain import CONFIG_ERRORS, explain
from surgrad.config.help import help_text
from surgrad.config.hydra_setup import CONFIGS, errors_as_raised, remove_empty, store, write_record
from surgrad.config.jobs import Job, jobs
from surgrad.config.names import known_id, named
from surgrad.errors import UserError
from surgrad.paths import runs_folder
from surgrad.runs.folder import Run, RunDone, open_run
from surgrad.runs.marker import is_ours
from surgrad.runs.record import NOT_IDENTITY, REPO, run_id
from surgrad.runs.tables import next_steps

log = logging.getLogger(__name__)


def _run_id(_root_: DictConfig) -> str:
    """`${run_id:}` in hydra.run.dir: a run with any other setting gets another folder, the same command the same."""
    return known_id() or run_id(resolved(_root_, without=NOT_IDENTITY))


def _run_leaf(above: str, leaf: str, _root_: DictConfig) -> str:
    """`${run_leaf:above,leaf}`: the name of the run's folder; of a new one it says in what the run differs.

    The name of a run in a sweep is decided where the sweep is planned, and given to whoever runs it.
    """
    own_id = _run_id(_root_)
    there = sorted(path.name for path in Path(above).glob(f"*-{own_id}") if is_ours(path))
    if there:
        return there[0]
    overrides = [str(override) for override in OmegaConf.select(_root_, "hydra.overrides.task", default=[])]
    return f"{named(leaf, Path(above).parts, overrides)}-{own_id}"


# process-wide, as Hydra's own resolvers are; importing this module again (in a sweep's workers) changes nothing
OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
OmegaConf.register_new_resolver("run_leaf", _run_leaf, replace=True)
OmegaConf.register_new_resolver("repo", lambda: str(REPO), replace=True)


class JobFailed(Exception):
    """A job of a sweep failed and has said why: for the launcher. Also the end of a sweep with such a job."""


def entry(
    suite: str,
    schema: type,
    *,
    run_name: str = "${hydra.job.config_name}",
    config_path: Path | None = None,
    opener: Callable[..., AbstractContextManager[Any]] = open_run,
) -> Callable[[Callable[[Any, Run], Any]], Callable[..., Any]]:
    """Make `main(cfg, run)` the command of a script, configured by Hydra from configs/<suite> and configs/shared.

    `schema` is the dataclass that `cfg` will be; YAML files take it in as the first of their defaults, `- schema`, and
    are checked against it either way. It is in a module of its own, which the workers of a parallel sweep import.
    The run folder is <script's folder>/Runs/<run_name>-<run id>, swept or not, so that the same command finds its run
    again (Runs/… in the working directory if the package is installed); hydra.run.dir and hydra.sweep.* override that.
    `${repo:}` is the repository's folder. What main returns is what a sweeper optimises; it is kept as
    summary["returned"]. `opener` opens the run folder, with the arguments of `open_run`:
    `surgrad.training.distributed.open_run` for a script that torchrun may start in many processes.

    The decorated function takes the command line as a list (default: sys.argv), returns what main returned (None
    under -m), and raises SystemExit(1) after a mistake in configuration or data (one line) or a failure (traceback).
    """

    def decorate(main: Callable[[Any, Run], Any]) -> Callable[..., Any]:
        folder = Path(main.__code__.co_filename).resolve().parent
        configs = config_path or CONFIGS / suite
        folders = [configs, CONFIGS / "shared"]

        def jobs_of(arguments: Sequence[str]) -> list[Job]:
            store(schema, runs_folder(folder), run_name)
            return jobs(configs, schema, translated(arguments, schema, folders))

        @functools.wraps(main)
        def command(arguments: Sequence[str] | None = None) -> Any:
            outcome: list[Any] = []
            given = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
            user_wants_tracebacks = False
            task = _Task(main, schema, opener, outcome)
            try:
                if not configs.is_dir():
                    raise UserError(f"{configs} is missing: install the repository with `pip install -e .`")
                asks = not {"--help", "-h"}.isdisjoint(given)
                text = help_text(inspect.getmodule(main), schema, folders, given) if asks else ""
                store(schema, runs_folder(folder), run_name, text)
                with command_line(given, schema, folders), errors_as_raised() as user_wants_tracebacks:
                    hydra.main(version_base="1.3", config_path=str(configs), config_name="config")(task)()
                    sys.stdout.flush()
            except JobFailed:
                raise SystemExit(1) from None
            except KeyboardInterrupt:
                raise SystemExit(130) from None
            except BrokenPipeError:  # `--help | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(141) from None
            except (UserError, *CONFIG_ERRORS) as error:
                if user_wants_tracebacks:
                    raise
                sys.stderr.write(f"error: {explain(error, options('.', [configs]))}\n")
                raise SystemExit(1) from None
            except OSError as error:  # Hydra makes the run folder
                if user_wants_tracebacks:
                    raise
                what = f"{error.filename} cannot be written" if error.filename else "writing failed"
                sys.stderr.write(f"error: {what} ({error.strerror}): another hydra.run.dir?\n")
                raise SystemExit(1) from None
            if any(isinstance(result, JobFailed) for result in outcome):
                raise SystemExit(1)
            return outcome[0] if len(outcome) == 1 else None

        # what workers, and what looks at a sweep before it starts, import
        vars(command).update(task=functools.partial(_Task, main, schema, opener), jobs=jobs_of)
        return command

    return decorate


@dataclass
class _Task:
    """What Hydra calls, once per job: says at once what went wrong, and lets the other jobs of a sweep go on."""

    main: Callable[[Any, Run], Any]
    schema: type  # a sweep checks the configurations of all its jobs before it starts the first
    opener: Callable[..., AbstractContextManager[Any]]
    outcome: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.main)  # Hydra asks where it is from

    def __call__(self, composed: DictConfig) -> Any:
        started = time.monotonic()
        try:
            result = _run(self.main, self.schema, self.opener, composed)
        except UserError as error:
            message = " ".join(str(error).split())
            log.error("error: %s", message)
            result = JobFailed(message)
        except Exception as error:
            log.exception("failed after %.0f s", time.monotonic() - started)
            result = JobFailed(f"{type(error).__name__}: {error}")
        if isinstance(result, JobFailed) and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise result
        self.outcome.append(result)
        return result

    def __reduce__(self) -> tuple[Callable[[str, str], "_Task"], tuple[str, str]]:
        """Workers import the script: what it refers to, such as torch.backends.cudnn, cannot always be sent to them."""
        return _task_of_script, (inspect.getfile(self.main), self.main.__name__)


def _task_of_script(file: str, name: str) -> _Task:
    """The task that `entry` made of the function `name` of a script, imported once per process."""
    module_name = f"surgrad_script_{Path(file).stem}"
    module = sys.modules.get(module_name)
    if module is None or module.__file__ != file:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no script of Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(module, name).task()


def _run(
    main: Callable[[Any, Run], Any],
    schema: type,
    opener: Callable[..., AbstractContextManager[Any]],
    composed: DictConfig,
) -> Any:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        cfg, settings = check_settings(composed, schema)
        rerun = getattr(cfg, "rerun", "missing")
        device = resolve_device(str(getattr(cfg, "device", "auto")))
        launchers.take_gpu(device, HydraConfig.get().job)
        use_threads(getattr(cfg, "num_threads", None))
        preflight(cfg)
    except UserError:
        remove_empty(folder)
        raise
    try:
        with opener(folder, settings, getattr(cfg, "wandb", None), rerun=rerun) as run:
            if isinstance(run, Run):  # one of many processes is given something that writes nothing
                write_record(folder, composed)
            run.summary["device"] = _device_name(device)
            result = main(cfg, run)
            run.summary["returned"] = result
        if isinstance(run, Run) and HydraConfig.get().mode == RunMode.RUN:
            log.info("%s", next_steps(folder, getattr(cfg, "nb_epochs", None)))
        return result
    except RunDone as done:
        log.info("%s", done)
        return done.summary.get("returned")


def preflight(cfg: Any) -> None:
    """Have a configuration look for what would stop its run (`CommonConfig.preflight`)."""
    if isinstance(cfg, CommonConfig):
        cfg.preflight()


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
