"""Mistaken and published overrides of every suite: one line that names the key, before anything is written."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from suites import schema_of

from surgrad.config import sweeps
from surgrad.config.check import check, check_settings, resolved
from surgrad.config.command_line import options, translated
from surgrad.config.composing import Composer
from surgrad.config.entry import entry
from surgrad.config.explain import CONFIG_ERRORS, explain
from surgrad.config.hydra_setup import CONFIGS, store
from surgrad.errors import UserError

MISTAKES = {
    "classification": """
        seed=99999999999999999999 seed=-1 seed=1.5 seed=abc seed=null seed=nan seed=[1] seed={a:1} seed= seed=${seed}
        dataset.duration=inf dataset.duration=nan dataset.duration=-1 dataset.duration=0 dataset.duration=1e-9
        dataset.duration=1e300 dataset.duration=abc dataset.duration=null dataset.time_step=0 dataset.time_step=1e-30
        dataset.time_step=inf dataset.nb_filters=[0,4] dataset.nb_filters=[4] dataset.nb_filters=[] dataset.nb_filters=3
        dataset.nb_filters=[a,b,c] dataset.nb_filters=[-1,2,3] dataset.kernel_size=[0,1,1] dataset.stride=[0,1,1]
        dataset.kernel_size=[9999,7,7] dataset.padding=[-1,0,0] dataset.nb_hidden_layers=0 dataset.nb_hidden_layers=9
        dataset.rec_kernel_size=0 dataset.rec_stride=0 dataset.rec_padding=-1 dataset.alpha=2 dataset.alpha=-1
        dataset.rec=maybe dataset.batch_size=0 dataset.nu=0 dataset.nu=-5 dataset.nb_inputs=-3 dataset.nb_classes=0
        dataset.validation=half dataset.validation=file dataset.validation_split=1 dataset.validation_split=0
        dataset.split_seed=-1 dataset.augment.p_drop=2 dataset.augment.sigma_t=-1 dataset.augment.time_stretch=1
        dataset.augment=null dataset.augment.p_drp=0 dataset.name=null dataset.limit=0 dataset.tme_step=1
        dataset.train_path=/nowhere.h5 dataset.datadir=/nowhere dataset.datadir=null dataset.validation_speakers=x
        plotting.nb_samples=0 plotting.idx_layer=3 plotting.idx_layer=-1 plotting.point_alpha=7 plotting.sample_seed=-1
        plotting.idx_neuron=-1 plotting.nb_samples_trials=0 plotting=null plotting=big
        method=null method=5 method=superspik method=[superspike] method.name=x method.other=y method.lr=0 method.lr=-1
        method.lr=inf method.target_sigma_u=0 method.nme=x method.name=null
        dataset=null dataset=7 dataset=shdd dataset=[shd] dataset=shd dataset=hdf5 wandb=null wandb=5 wandb=mine
        wandb.mode=on wandb.mode=null wandb.tags=5 wandb.checkpoints=perhaps wandb.projct=x
        num_threads=100000 num_threads=0 num_threads=-1 num_threads=two device=gpu device=cuda:x device=null device=5
        rerun=yes rerun=null loss_type=mse loss_type=null optimizer=adm optimizer=smorms4 optimizer=5 kernel=gpu
        memory=less precision=float16 truncate=-1 plot=true nb_epochs=-1 nb_epochs=1e3 nb_epochs=ten batch_size=0
        logging_freq=0 test_draws=0 tau_mem=0 tau_mem=-1 tau_mem=nan tau_syn=0 tau_readout=inf beta=0 beta=nan p0=nan
        p0=2 delta_uh=0 delta_uh=nan eps_0=1 theta=2 k0=0 delta_uo=1 anneal=5x anneal_interval=0 anneal_start=-1
        monitor_fano=-1 monitor_fano=100000 epoch_chunk=0 fano.bin_dt=0 fano.repeats=1 fano=none fano.evaluate=perhaps
        regularizer=off regularizer.upperBoundL2Strength=-1 regularizer.dims=[9x regularizer.lowerBoundL2Threshold=nan
        dataset.nb_time_steps=100 sed=1 +sed=1 nb_epoch=3 hydra.run.dir= hydra/launcher=slrm
        tau_mem=${nothing} tau_mem=${oc.env:NOT_SET}
    """,
    "dense": """
        hidden=[] hidden=[0] hidden=[-1] hidden=5 hidden=[a] delay=2 delay=-1 inhibitory=1 inhibitory=-1 lr=0 lr=nan
        lr_tau=0 lr_tau=inf surrogate=null surrogate=suprspike surrogate.beta=nan surrogate.beta=-1 surrogate.betaa=1
        surrogate._target_=surgrad.surrogate.Nothing surrogate={} neuron=lf neuron.reset=hard neuron._target_=null
        neuron.escape_noise.beta=3 connection=conv connection=delayed,dense connection.max_delay=1 initializer=dale
        initializer.sigma_u=-1 initializer.sigma_u=inf initializer.nothing=1 initializer=null time_constants=lognormal
        time_constants.shape=3 optimizer_options.weight_dcay=0.1 optimizer_options.betas=[2,3] optimizer_options=5
        regularizers.upper_bound.strength=nan regularizers.upper_bound.thresold=1 regularizers.mine.strength=1
        monitor_samples=0 readout_unit_gain=2x dataset=ssc dataset=fashion_mnist dataset.nb_inputs=0
        recurrent=null watch_test=5x
    """,
    "event_snn": """
        method=backprop loss=mse method=null nb_hidden=0 tau_syn=0 tau_mem=nan duration=0 duration=inf input_dropout=1
        lr_decay=0 hidden.std=-1 hidden=null tau_weight=0 dataset.validation=none dataset=random gain=inf time_step=9
    """,
    "eventprop": "latency.early=nan latency=5 alpha=-1 tau0=0 bump=nan output.std=x output.stdd=1 nb_epochs=-1 lr=null",
    "initialization": """
        grid.nu=[] grid.nu=[1e9] grid.alpha=[1] depth.nb_layers=0 depth.nu=1e6 steps.dts=[0] real.nb_samples=0
        initializers.Kaiming=5 initializers.Kaiming.gian=2 time_step=0
    """,
    "spike_train_matching": """
        dataset.polarity=grey dataset.data_path=nowhere.png dataset.data_path=5 dataset.data_path=[] dataset.nb_hidden=0
        dataset.nb_layers=3 method.sg_mode=x method.nb_trials=0 dataset_method.lr_h=-1 update=two_factor fi=0 out_prob=2
        dt=0 eps0=0 mV=1 batch_id=1 batch_id=-1 logging_freq=0 checkpoint_seconds=0 dataset=shdd
    """,
    "superspike": """
        feedback=none reset=hard update_period=1e-9 input_path=nowhere.bs1 nb_hidden=0 nb_spikes=0 gamma=-1 dt=inf
    """,
}
CASES = [(suite, override) for suite, text in MISTAKES.items() for override in text.split()]

#: One mistake of each kind on a command line that Hydra parses; the cases above are jobs of a sweep.
TYPED = ["=5", "seed", "seed=1,2", "seed=abc", "sed=1", "+sed=1", "~nothing", "--config-name=confg", "hydra.run.dir="]
TYPED += ["hydra/launcher=slrm", "method=superspik", "p0=nan", "tau_mem=${nothing}", "dataset.train_path=/nowhere.h5"]

PUBLISHED = {
    "classification": """
        dataset=SHD,dataset.train_path=TRAIN,dataset.test_path=TEST --config-name=config_sigm dataset=Randman
        loss_type=sum_of_softmax loss_type=mot_ce batch_id=0 o_neuron_id=2 h_neuron_id=10 i_neuron_id=0 device=cpu
        dataset.nb_hidden_units=128 dataset.dt=2e-3 dataset.time_scale=1 dataset.unit_scale=1 wandb=diff_reset
        wandb.project=mine wandb.entity=me method=superspike method=stochasticsuperspike method=multilayerspiker
        method=scaled_sigmoid regularizer=lowerBound regularizer=default fano=default plotting=default sigm=True
        using_wandb=False plot=none optimizer=sgd optimizer=adam diff_reset=True monitor_spikes=False binned=True
        monitor_chunks=False epoch_chunk=1 anneal=True eps_0=267e-3 p0=0.6666666666666667 theta=1 k0=-1 delta_uo=13e-3
        plotting.idx_neuron=1022 regularizer.dims=False method.lr=20 dataset.rec=False dataset.validation_split=0.8
        wandb.name=695e0514 wandb.group=1e5 wandb.tags=[1e5,a]
    """,
    "dense": "optimizer_options.weight_decay=0.1,optimizer=adamw dataset.limit=null",
    "spike_train_matching": """
        method=superspike dataset=oxford dataset_method=oxford_superspike mV=1e-3 dataset.nb_layers=2
        dataset.data_path=../../../../dataset/oxford.png
    """,
}
ACCEPTED = [(suite, command) for suite, text in PUBLISHED.items() for command in text.split()]

#: What a data set needs that does not come with the repository.
FILES = "dataset.train_path=TRAIN,dataset.test_path=TEST"
DATASETS = {name: f"dataset={name}" for name in options("dataset", [CONFIGS / "shared"])}
DATASETS |= {name: f"dataset={name},{FILES}" for name in ("shd", "hdf5")}
DATASETS |= {name: f"dataset={name},dataset.subset=true" for name in ("mnist", "fashion_mnist")}
DATASETS["own"] = "dataset=own,dataset.source._target_=examples.my_parts.Tones"
DATASETS["camera"] = "dataset=camera,dataset.folder=.,dataset.height=34,dataset.width=34"
DATASETS |= {name: f"dataset={name},dataset.folder=." for name in ("nmnist", "dvs_gesture")}
DATASETS["ssc"] = f"dataset=ssc,{FILES},dataset.valid_path=TEST"
PAIRS = [
    (suite, command)
    for suite in ("classification", "dense", "event_snn", "initialization")
    for name, command in DATASETS.items()
    if (suite, name) != ("event_snn", "random")  # it has nothing to choose an epoch by: a mistake, above
]


@pytest.fixture(scope="module")
def planned():
    """Plans a sweep of one job with these overrides; what a suite composes by default is composed once."""
    composers, stored = {}, []

    def composer(suite):
        with initialize_config_dir(str(CONFIGS / suite), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return Composer(loader, loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN))

    def plan(suite, arguments):
        schema, folders = schema_of(suite), [CONFIGS / suite, CONFIGS / "shared"]
        if stored != [suite]:
            store(schema, Path("Runs"), "run")
            stored[:] = [suite]
        if suite not in composers:
            composers[suite] = composer(suite)
        try:
            return sweeps.plan(composers[suite]([translated(arguments, schema, folders)]), schema)
        except CONFIG_ERRORS as error:
            raise UserError(explain(error)) from error

    return plan


def names_the_key(line, override):
    key = re.sub(r"^[+~]*", "", override.partition("=")[0])
    parts = [part for part in key.split(".") if part]
    return not parts or parts[-1] in line or parts[0] in line


def test_there_are_enough_of_them():
    assert len(set(CASES)) == len(CASES) >= 250


@pytest.mark.parametrize(("suite", "override"), CASES)
def test_a_mistake_is_one_line_that_names_the_key(planned, tmp_path, monkeypatch, suite, override):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        planned(suite, [override])
    line = str(error.value).removesuffix(f" (in the job {override})")
    assert "\n" not in line
    assert names_the_key(line, override), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", TYPED)
def test_a_command_with_a_mistake_ends_with_that_line(capsys, tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    line = said(capsys, "classification", [override])
    assert "would run" not in line
    assert names_the_key(line, override), line
    assert not list(tmp_path.iterdir())


def said(capsys, suite, arguments):
    """The line with which a command ends."""

    def opener(*arguments, **options):
        raise UserError("would run")

    def main(cfg, run):
        raise AssertionError

    with pytest.raises(SystemExit) as stopped:
        entry(suite, schema_of(suite), opener=opener)(main)([*arguments, "hydra.run.dir=run"])
    assert stopped.value.code == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    lines = [line for line in told.err.splitlines() if "note: " not in line]
    assert len(lines) == 1, told.err
    return lines[0]


@pytest.mark.parametrize(("suite", "command"), ACCEPTED + PAIRS)
def test_published_commands_are_understood_and_every_data_set_fits(
    planned, capsys, tmp_path, monkeypatch, suite, command
):
    monkeypatch.chdir(tmp_path)
    arguments = command.replace("TRAIN", "train.h5").replace("TEST", "test.h5")
    for name in ("train.h5", "test.h5", "Train/0/a.bin", "Test/0/a.bin", "trials_to_train.txt", "trials_to_test.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    listed = re.split(r",(?=[\w.]+=)", arguments)
    if arguments.startswith("--"):
        assert said(capsys, suite, listed).endswith("would run")
        store(schema_of(suite), Path("Runs"), "run")
    else:
        assert len(planned(suite, listed)) == 1


def test_jobs_are_composed_as_hydra_composes_them_whatever_the_jobs_before_changed():
    """Overrides of a value, of a whole node and of a choice of files; what a job shares with the one before, too."""
    products = [
        *(["method.lr=0.1"], ["seed=3", "fano.repeats=7"], ["method=superspike", "method.lr=0.2"], ["seed=4"]),
        *(["dataset.nb_filters=[2,3,4]", "method.lr=0.1"], ["plotting={nb_samples: 2}"], ["method.lr=0.3"], []),
    ]
    schema = schema_of("classification")
    store(schema, Path("Runs"), "run")
    with initialize_config_dir(str(CONFIGS / "classification"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        for overrides, config in Composer(loader, master)(products):
            expected = loader.load_sweep_config(master, overrides)
            assert list(config.hydra.overrides.task) == list(expected.hydra.overrides.task)
            assert config.hydra.job.override_dirname == expected.hydra.job.override_dirname
            assert resolved(config) == resolved(expected)
            assert check_settings(config, schema) == check_settings(expected, schema)


def test_values_that_read_alike_are_checked_apart():
    @dataclass
    class Schema:
        any: Any = None
        number: float = 0.0

    assert [type(check({"any": value}, Schema).any) for value in (1, 1.0, True, "1", 1)] == [int, float, bool, str, int]
    first = check({"any": [1]}, Schema)
    first.any.append(2)
    assert check({"any": [1]}, Schema).any == [1]
    assert type(check({"number": 1}, Schema).number) is float
    with pytest.raises(UserError, match="number=x: wanted float"):
        check({"any": 1, "number": "x"}, Schema)
