"""The configurations of the jobs of a sweep, composed once for every choice of files and changed in place of that."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, flag_override, open_dict


def composed(folder: str | Path, name: str, overrides: Sequence[str], schema: type) -> DictConfig:
    """A configuration outside of `hydra.main`.

    Args:
        folder: of the files.
        name: of the file in it, without its suffix.
        overrides: as on the command line.
        schema: dataclass that files take in by ``- schema``.
    """
    ConfigStore.instance().store(name="schema", node=schema)
    with initialize_config_dir(os.path.abspath(folder), version_base="1.3"):
        return compose(name, list(overrides))


class Composer:
    """Composes like Hydra, which reads and merges all files anew for each job (.1 s, against a few ms here)."""

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def __call__(self, jobs: Sequence[Sequence[str]]) -> Iterator[tuple[list[str], DictConfig]]:
        """(overrides, configuration) of every job, good until the next is asked for: Hydra's own node is lent to it."""
        for overrides in jobs:
            yield list(overrides), self._configuration(list(overrides))

    def _configuration(self, overrides: list[str]) -> DictConfig:
        parsed = self._parser.parse_overrides(overrides)
        values = [override for override in parsed if self._is_value(override)]
        files = tuple(override.input_line or "" for override in parsed if not self._is_value(override))
        if files not in self._composed:
            template = self._loader.load_sweep_config(self._master, list(files))
            hydra = template.hydra
            with open_dict(template):
                del template["hydra"]
            self._composed[files] = template, hydra
        template, hydra = self._composed[files]
        config = template.copy()
        with open_dict(config), flag_override(config, "no_deepcopy_set_nodes", True):
            config.hydra = hydra
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        ours = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in ours]
        style = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            ours, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=list(style.exclude_keys)
        )
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether it changes one leaf and no choice of files."""
        return (
            override.type is OverrideType.CHANGE
            and override.package is None
            and not override.key_or_group.startswith("hydra.")
            and not self._loader.repository.group_exists(override.key_or_group)
        )
