"""Every rung of the ladder composes and builds; the published networks train on files in the format of SHD and SSC."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from dense_suite import run_dense
from omegaconf import OmegaConf

from surgrad.config.check import check
from surgrad.config.hydra_setup import CONFIGS
from surgrad.config.jobs import jobs_of_command
from surgrad.datasets.events import EventDataset
from surgrad.datasets.sources.hdf5 import write_shd
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.experiments.dense.config import DenseConfig
from surgrad.experiments.non_spiking.config import NonSpikingConfig
from surgrad.network.connections import DelayedDense, GaussianDelays
from surgrad.network.neuron_delays import AxonalDelays
from surgrad.network.normalization import TemporalBatchNorm
from surgrad.runs.record import REPO, load_runs


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ladder_script", REPO / "scripts" / "ladder.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def configuration(line):
    """The checked configuration of a command."""
    (job,) = jobs_of_command(line)
    classes = {"dense_SNN": DenseConfig, "non_spiking": NonSpikingConfig, "deep_convSNN": ClassificationConfig}
    return check(OmegaConf.create(job.settings), classes[line.split()[1].split("/")[1].removesuffix(".py")])


def test_every_rung_composes_builds_and_has_a_folder_of_its_own(script):
    for line in script.RUNGS.values():
        cfg = configuration(line)
        sizes = (700, 500) if isinstance(cfg, ClassificationConfig) else (140, 100)
        assert (cfg.dataset.name, cfg.dataset.network_inputs, cfg.dataset.nb_steps) == ("spoken_commands", *sizes)
        cfg.objective()
        if isinstance(cfg, DenseConfig):
            network = cfg.network(140, 20, torch.Generator().manual_seed(1))
            cfg.schedule(cfg.build_optimizer(network))
    names = {path.stem for path in (CONFIGS / "dense" / "ladder").glob("*.yaml")}
    used = {line.partition("ladder/")[2].split()[0] for line in script.RUNGS.values() if "ladder/" in line}
    assert used | {"dcls", "se_adlif", "delrec"} == names


@pytest.mark.parametrize(
    ("name", "data", "nb_classes"), [("dcls", "ssc", 35), ("se_adlif", "shd", 20), ("delrec", "ssc", 35)]
)
def test_published_networks_compose_on_the_heidelberg_sets(name, data, nb_classes):
    cfg = configuration(f"python3 Classification/dense_SNN.py --config-name=ladder/{name} dataset={data}")
    assert (cfg.dataset.name, cfg.dataset.network_inputs, cfg.dataset.nb_classes) == (data, 140, nb_classes)
    network = cfg.network(140, nb_classes, torch.Generator().manual_seed(1))
    cfg.schedule(cfg.build_optimizer(network))
    kinds = {type(part) for part in network.modules()}
    wanted = {"dcls": {GaussianDelays, TemporalBatchNorm}, "delrec": {AxonalDelays, TemporalBatchNorm}}
    assert wanted.get(name, set()) <= kinds
    assert DelayedDense not in kinds
    assert isinstance(network.readout.feedforward, GaussianDelays) == (name == "dcls")
    if name == "delrec":
        delays = [layer.recurrent.delay().detach() for layer in network.layers]
        assert all(len(x[0]) == 256 and 0.08 < float(x.min()) < 0.09 and 0.27 < float(x.max()) < 0.28 for x in delays)
        assert [layer.recurrent_dropout for layer in network.layers] == [0.2, 0.2]
    if name == "se_adlif":
        taus = [layer.tau_mem.tau.detach() for layer in network.layers]
        assert all(0.0199 < float(tau.min()) < 0.03 and 0.09 < float(tau.max()) < 0.1001 for tau in taus)
        assert [layer.tau_syn.log_tau.numel() for layer in network.layers] == [1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of the published names and sizes of units and classes, with a few random samples."""
    rng, found = np.random.default_rng(0), tmp_path_factory.mktemp("heidelberg")
    for data, nb_classes, parts in (("shd", 20, ("train", "test")), ("ssc", 35, ("train", "valid", "test"))):
        for part in parts:
            nb, per_sample = 40, 300
            dataset = EventDataset(
                times=rng.uniform(0, 0.3, nb * per_sample),
                units=rng.integers(700, size=nb * per_sample),
                offsets=np.arange(nb + 1) * per_sample,
                labels=np.arange(nb) % nb_classes,
                nb_units=700,
                nb_classes=nb_classes,
                speakers=np.arange(nb) % 4,
            )
            write_shd(found / f"{data}_{part}.h5", dataset)
    return found


#: Configuration and data set; of the best three rungs those that are in no claim
TRAINED = [("dcls", "shd"), ("se_adlif", "ssc"), ("delrec", "shd"), ("full", "ssc")]
EULER = ["neuron.scheme=euler", "neuron.a=[0,60]", "neuron.b=[0,120]"]


@pytest.mark.parametrize(("name", "data"), [*TRAINED, ("se_adlif", "shd euler")])
def test_published_networks_train_on_files_of_the_right_format(tmp_path, folder, name, data):
    data, *scheme = data.split()
    small = ["hidden=[8,6]", "nb_epochs=2", "batch_size=16", "plot=false", "wandb.mode=disabled", "device=cpu"]
    small += ["dataset.duration=0.3", f"dataset.datadir={folder}", f"hydra.run.dir={tmp_path}/run"]
    small += ["recurrent_connection.max_delay=0.15", "recurrent_connection.width=0.05"] if name == "delrec" else []
    run_dense(f"--config-name=ladder/{name}", f"dataset={data}", *small, *(EULER if scheme else []))
    (record,) = load_runs(tmp_path / "run")
    assert record.status == "done"
    assert {"test_acc_best_valid", "test_synaptic_operations"} <= record.summary.keys()


def test_the_table_is_of_the_runs_that_the_commands_stand_for(script, tmp_path, monkeypatch, capsys):
    """Two tiny rungs; a third run, of another setting, is no part of them."""
    tiny = "dataset=randman dataset.nb_classes=3 dataset.nb_inputs=12 dataset.nb_samples=20 dataset.duration=0.04"
    tiny += " hidden=[6] batch_size=16 nb_epochs=1 plot=false device=cpu wandb.mode=disabled num_threads=1"
    line = f"{script.DENSE} {tiny}"
    monkeypatch.setattr(script, "RUNGS", {"plain": line, "recurrent": f"{line} lr=1e-2"})
    monkeypatch.setattr(script, "baseline", lambda: {"valid_acc": 0.5, "test_acc": 0.4})
    with pytest.raises(SystemExit, match="no run of the ladder"):
        script.main(["--runs", str(tmp_path)])
    for k, more in enumerate(("seed=1", "lr=1e-2 seed=1", "lr=2e-2 seed=1")):
        run_dense(*tiny.split(), *more.split(), f"hydra.run.dir={tmp_path}/{k}")
    capsys.readouterr()
    script.main(["--runs", str(tmp_path), "--figure", str(tmp_path / "ladder.png")])
    shown = capsys.readouterr().out
    assert "| plain | 1 |" in shown
    assert "| recurrent | 1 |" in shown
    assert "validation 0.500, test 0.400" in shown
    assert (tmp_path / "ladder.png").stat().st_size > 1000
