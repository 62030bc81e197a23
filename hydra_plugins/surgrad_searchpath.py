"""Hydra finds plugins in a package of this name: this one lets every suite find the groups that suites share."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SharedGroups(SearchPathPlugin):
    """Appends configs/shared to the search path of our scripts; a suite's own file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        setup = sys.modules.get("surgrad.config.hydra_setup")  # every Hydra application asks every plugin
        if setup is not None:
            search_path.append("surgrad", f"file://{setup.CONFIGS / 'shared'}")
