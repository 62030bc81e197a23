"""Parts of convolutional layers from the command line of deep_convSNN.py: trained, read back, gone on with, refused."""

import pytest
import torch
from classification_suite import TINY, load_script

import surgrad
from surgrad.runs.record import load_runs

QUICK = [*TINY, "plot=none", "fano.evaluate=false", "test_draws=1", "dataset.rec=true", "method.target_sigma_u=3"]

PARTS = {
    "time constants": (["time_constants=gamma", "time_constants.trainable=true", "lr_tau=0.1"], "tau_mem.log_tau"),
    "delays": (
        [
            *["connection=axonal_delays", "connection.max_delay=8e-3", "connection.width=4e-3", "lr_delay=0.1"],
            *["connection@readout_connection=gaussian_delays", "readout_connection.max_delay=8e-3"],
        ],
        "feedforward.delay.logit",
    ),
    "max pooling": (["dataset.stride=[1,1]", "dataset.pool_size=[2,1]"], "feedforward.weight"),
    "residual": (
        [
            *["dataset.nb_hidden_layers=3", "dataset.nb_filters=[4,4,6]", "dataset.kernel_size=[3,3,3]"],
            *["dataset.stride=[1,1,1]", "dataset.padding=[1,1,1]", "dataset.residual=[[0,1],[0,2]]"],
        ],
        "residual.conv.weight",
    ),
    "average pooling": (
        ["dataset.stride=[1,1]", "dataset.pool_size=[2,2]", "dataset.pool_kind=average", "dropout=0.2"],
        "feedforward.weight",
    ),
}


@pytest.fixture(scope="module")
def main():
    return load_script().main


@pytest.fixture(scope="module", params=PARTS)
def trained(main, request, tmp_path_factory):
    """A run of two epochs, its overrides, and what the names of the parameters end in that its part has."""
    overrides, own = PARTS[request.param]
    folder = tmp_path_factory.mktemp("trained")
    main([*QUICK, *overrides, f"hydra.run.dir={folder}"])
    return folder, overrides, own


def test_their_parameters_are_learned_and_read_back(trained):
    folder, _, own = trained
    (record,) = load_runs(folder)
    weights = record.checkpoint()["model"]
    assert any(name.endswith(own) for name in weights)
    loaded = surgrad.load_run(folder)
    assert loaded.evaluate("test").acc == pytest.approx(record.summary["test_acc_best_valid"], abs=0.2)
    before = loaded.network.state_dict()
    assert {name: x.shape for name, x in before.items()} == {name: x.shape for name, x in weights.items()}


def test_a_run_that_goes_on_equals_one_that_was_never_interrupted(trained, main, tmp_path):
    folder, overrides, _ = trained
    for nb_epochs in (1, 2):
        main([*QUICK, *overrides, f"nb_epochs={nb_epochs}", f"hydra.run.dir={tmp_path}"])
    (whole,), (parted,) = load_runs(folder), load_runs(tmp_path)
    assert parted.metrics["epoch"].tolist() == [0, 1, 2]
    for column in ("train_loss", "valid_loss"):
        assert parted.metrics[column][1:].tolist() == whole.metrics[column][1:].tolist()
    a, b = (record.checkpoint()["model"] for record in (whole, parted))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_learned_constants_move_and_stay_within_their_bounds(trained, main, tmp_path):
    folder, overrides, own = trained
    main([*QUICK, *overrides, "nb_epochs=0", f"hydra.run.dir={tmp_path}"])
    (end,), (start,) = load_runs(folder), load_runs(tmp_path)
    before, after = start.checkpoint()["model"], end.checkpoint()["model"]
    moved = [name for name in after if name.endswith(own) and not torch.equal(before[name], after[name])]
    assert moved
    if own.endswith("log_tau"):
        assert all(2e-3 <= float(tau) <= 0.1001 for name in moved for tau in after[name].exp().flatten())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["time_constants_of=layer"], "time_constants_of=layer: unknown; allowed: channel, neuron"),
        (["time_constants=gamma", "time_constants.bounds=[1e-3,2e-3]"], "lies outside its bounds of 0.001 to 0.002 s"),
        (["connection=delayed"], "connection=surgrad.layers.DelayedDense: layers are convolutional, with delays of"),
        (["connection=gaussian_delays"], "(connection=axonal_delays or dendritic_delays) or none"),
        (["connection._target_=my_module.X"], "connection"),
        (["connection=axonal_delays", "connection.max_delay=1"], "max_delay=1 s does not fit into the window of 20 st"),
        (
            ["dataset.residual=[[0,2]]"],
            "residual=[[0, 2]]: pairs of a layer and one above it are wanted",
        ),
        (["dataset.residual=[0,1]"], "residual=[0, 1]: pairs of a layer and one above it are wanted"),
        (["dataset.pool_size=[2]"], "dataset.pool_size=[2]: one for each of dataset.nb_hidden_layers=2"),
        (["dataset.pool_size=[6,1]"], "hidden layer 1: pool_size=6 does not fit units (4, 5)"),
        (["dataset.pool_size=[1,0]"], "dataset.pool_size=[1, 0]: must be positive"),
        (["dataset.pool_kind=sum"], "dataset.pool_kind=sum: unknown; allowed: max, average"),
        (["lr_tau=0"], "lr_tau=0.0: must be positive"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(main, monkeypatch, tmp_path, capsys, overrides, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([*QUICK, *overrides, "hydra.run.dir=run"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert said in lines[0]
