"""Every YAML of the Classification suite composes and runs one step, also in a sweep."""

import logging

import numpy as np
import pytest
from classification_suite import TINY, load_script
from hydra import compose, initialize_config_dir

from surgrad.config.check import check
from surgrad.config.command_line import options
from surgrad.config.hydra_setup import CONFIGS
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import write_shd
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.runs.record import REPO, load_runs

FOLDER = REPO / "configs" / "classification"
PRIMARY = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GROUPS = ("dataset", "method", "regularizer", "wandb", "plotting", "fano")
OPTIONS = [(group, option) for group in GROUPS for option in options(group, [FOLDER, CONFIGS / "shared"])]
QUICK = ["nb_epochs=1", "plot=none", "test_draws=1", "wandb.mode=disabled", "device=cpu", "fano.repeats=3"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    module = load_script()
    yield module
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def files(tmp_path):
    """Overrides that put files of the published sizes, with a few random samples, in the place of the data."""
    rng = np.random.default_rng(0)

    def write(name, nb_classes):
        nb, per_sample = 8, 150
        write_shd(
            tmp_path / name,
            EventDataset(
                times=rng.uniform(0, 0.05, nb * per_sample),
                units=rng.integers(700, size=nb * per_sample),
                offsets=np.arange(nb + 1) * per_sample,
                labels=np.arange(nb),
                nb_units=700,
                nb_classes=nb_classes,
                speakers=np.arange(nb) % 4,
            ),
        )

    for data, nb_classes in (("", 10), ("shd_", 20), ("ssc_", 35)):
        for part in ("train", "test", "valid"):
            write(f"{data}{part}.h5", nb_classes)
    return [f"dataset.datadir={tmp_path}", "dataset.duration=0.06", "batch_size=8"]


def composed(config_name, *overrides):
    load_script()  # the resolvers
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return compose(config_name, [*overrides])


@pytest.fixture(autouse=True)
def schema_in_store():
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=ClassificationConfig)


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_config_composes(name):
    assert isinstance(check(composed(name), ClassificationConfig), ClassificationConfig)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_a_group_composes(group, option):
    needed = {"hdf5": ["dataset.train_path=a.h5", "dataset.test_path=b.h5"], "own": ["dataset.source._target_=a.B"]}
    needed["camera"] = ["dataset.folder=a", "dataset.height=34", "dataset.width=34"]
    cfg = check(composed("config", f"{group}={option}", *needed.get(option, ())), ClassificationConfig)
    if group in ("dataset", "method"):
        assert option.startswith(getattr(cfg, group).name)


def test_published_overrides_of_the_defaults_keep_working():
    published = ["seed=3", "tau_mem=10e-3", "beta=20", "method=multilayerspiker", "method.lr=20", "dataset=randman"]
    published += ["dataset.nb_filters=[8,8,8]", "dataset.randmanseed=2", "eps_0=267e-3", "theta=1", "k0=-1"]
    published += ["dataset.rec=True", "diff_reset=True", "anneal=True", "anneal_start=5", "regularizer.dims=False"]
    cfg = check(composed("config", *published), ClassificationConfig)
    assert cfg.dataset.nb_filters == [8, 8, 8]
    assert cfg.regularizer.build()[0].dims is False


@pytest.mark.parametrize("dataset", ["spiking_digits", "shd", "ssc", "hdf5"])
def test_every_data_set_runs_one_step(script, files, tmp_path, dataset):
    own = ["dataset.train_path=train.h5", "dataset.test_path=test.h5"] if dataset == "hdf5" else []
    script.main([f"dataset={dataset}", *files, *own, *QUICK, "hydra.run.dir=run"])
    (record,) = load_runs(tmp_path / "run")
    assert record.metrics["epoch"].tolist() == [0, 1]


@pytest.mark.parametrize("validation", ["speaker", "none"])
def test_validation_can_be_a_speaker_or_none(script, files, tmp_path, validation):
    script.main([*files, *QUICK, f"dataset.validation={validation}", "hydra.run.dir=run"])
    (record,) = load_runs(tmp_path / "run")
    assert ("valid_acc" in record.metrics) == (validation == "speaker")


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_config_runs_one_step(script, tmp_path, name):
    script.main([f"--config-name={name}", *TINY, *QUICK, "hydra.run.dir=run"])
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"


@pytest.mark.parametrize("group", ["method", "regularizer"])
def test_a_sweep_runs_every_option_in_a_folder_of_its_own(script, tmp_path, group):
    options = [option for g, option in OPTIONS if g == group]
    script.main(["-m", *TINY, *QUICK, f"{group}={','.join(options)}", "hydra.sweep.dir=sweep"])
    records = load_runs(tmp_path / "sweep")
    assert [record.status for record in records] == ["done"] * len(options)
    if group == "method":
        assert sorted(record.get("method.name") for record in records) == options
