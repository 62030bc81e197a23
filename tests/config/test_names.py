"""Run folders are named by what differs, and found again by their id whatever their name is."""

import pytest
from dense_suite import TINY, run_dense

from surgrad.config.names import MOST_CHARACTERS, named, sweep_of
from surgrad.runs.record import load_runs

NAMES = [
    (["seed=2", "surrogate=esser", "surrogate.beta=10"], "surrogate=esser+beta=10+seed=2"),
    (
        ["surrogate=my_parts.Gaussian", "neuron.escape_noise._target_=a.b.Probit"],
        "surrogate=Gaussian+escape_noise=Probit+seed=2",
    ),
    (["hidden=[32,16]", "+regularizers.mine.strength=0.5"], "hidden=32-16+strength=0.5+seed=2"),
    (
        ["dataset=randman", "dataset.train_path=/a/b.h5", "x={a: 1}", "~y", "wandb.mode=disabled", "device=cpu"],
        "seed=2",
    ),
    (["held_out@dataset=random", "augment@dataset.augment=few"], "held_out=random+augment=few+seed=2"),
]


@pytest.mark.parametrize(("overrides", "name"), NAMES)
def test_names_say_the_overrides_that_folder_and_leaf_do_not(overrides, name):
    assert named("seed=2", ("Runs", "dataset=randman"), overrides) == name


def test_of_a_sweep_what_is_swept_is_named():
    jobs = [["nb_epochs=3", f"beta={beta}", f"surrogate={name}"] for beta in (1, 10) for name in ("esser", "sigmoid")]
    with sweep_of(jobs):
        assert named("seed=1", (), jobs[3]) == "beta=10+surrogate=sigmoid+seed=1"
    with sweep_of(jobs[:1]):
        assert named("seed=1", (), jobs[0]) == "nb_epochs=3+beta=1+surrogate=esser+seed=1"
    assert named("sign_bias", (), ["beta=5"]) == "sign_bias+beta=5"


def test_long_names_leave_out_the_data_first():
    given = [*(f"dataset.{'x' * 20}{k}={k}" for k in range(5)), "surrogate=esser", "lr=0.1"]
    name = named("seed=1", (), given)
    assert len(name) <= MOST_CHARACTERS
    assert name.endswith("surrogate=esser+lr=0.1+seed=1")
    assert "x0=0" in named("seed=1", (), given) or "x4=4" in name


def test_a_run_keeps_the_folder_that_it_has(tmp_path):
    tiny = [*TINY, f"hydra.sweep.dir={tmp_path}", "nb_epochs=1"]
    run_dense("-m", *tiny, "surrogate=superspike,esser")
    (first, *_), before = load_runs(tmp_path), {run.folder for run in load_runs(tmp_path)}
    assert {run.folder.name.split("+")[0] for run in load_runs(tmp_path)} == {"surrogate=esser", "surrogate=superspike"}
    first.folder.rename(first.folder.with_name(f"earlier-{first.summary['run_id']}"))
    run_dense("-m", *tiny, "surrogate=esser,superspike", "seed=1")
    assert len(load_runs(tmp_path)) == len(before)
    run_dense("-m", *tiny, "surrogate=superspike", "nb_epochs=2")
    assert len(load_runs(tmp_path)) == len(before) + 1
