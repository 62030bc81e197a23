"""The id of a run follows from its configuration alone: runs recorded earlier are found again by the same command."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

import surgrad.config.entry  # noqa: F401  registers the resolvers
from surgrad.config.check import check_settings
from surgrad.runs.record import REPO, run_id

RECORDED = json.loads((Path(__file__).parent / "reference" / "run_ids.json").read_text())
MODULES = {"event_snn": "eventprop"}  # suites that share another suite's package


@pytest.mark.parametrize(
    "run", RECORDED, ids=lambda run: "-".join([run["suite"], run["config_name"], *run["overrides"]])
)
def test_a_recorded_run_keeps_its_id(run):
    package = MODULES.get(run["suite"], run["suite"])
    schema = getattr(import_module(f"surgrad.experiments.{package}.config"), run["schema"])
    ConfigStore.instance().store(name="schema", node=schema)
    with initialize_config_dir(str(REPO / "configs" / run["suite"]), version_base="1.3"):
        composed = compose(run["config_name"], run["overrides"])
    assert run_id(check_settings(composed, schema)[1]) == run["run_id"]
