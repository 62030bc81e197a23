"""Many processes are one: shares of a batch add up to it, and torchrun's processes end where a single one does."""

import signal
import subprocess
import sys
from subprocess import PIPE

import numpy as np
import pytest
import torch
from classification_suite import GRID, SCRIPT, TINY, load_script, make_network

from surgrad.datasets.sources.randman import Randman
from surgrad.errors import UserError
from surgrad.runs.record import load_runs
from surgrad.training.distributed import ALONE, Processes, open_run, samples
from surgrad.training.losses import MaxOverTimeCrossEntropy
from surgrad.training.regularizers import REGULARIZERS, build_regularizer, penalty

LOSS = MaxOverTimeCrossEntropy()


@pytest.fixture(scope="module")
def batch():
    """Eight samples of other numbers than their places."""
    dataset = Randman(nb_classes=3, nb_units=12, nb_steps=40, duration=0.08, nb_samples=20, alpha=2.0).dataset()
    return next(GRID(dataset, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 11])
def test_shares_are_the_batch_cut_into_parts_of_nearly_one_size(batch, size):
    shares = [Processes(rank, size).share(batch) for rank in range(size)]
    own = [part for part, weight in shares if weight]
    assert torch.equal(torch.cat([part.ids for part in own]), batch.ids)
    assert torch.equal(torch.cat([part.labels for part in own]), batch.labels)
    assert torch.equal(torch.cat([part.dense() for part in own], 1), batch.dense())
    assert {len(part) for part in own} <= {8 // size, -(-8 // size)}
    assert sum(weight for _, weight in shares) == pytest.approx(size)
    assert all(len(part) == 1 for part, weight in shares if not weight)


def gradients(network, batch):
    out = network(batch, seed=3, draw=2)
    bounds = [build_regularizer(name, strength=0.3, threshold=1.0, dims=[-2, -1]) for name in REGULARIZERS]
    bounds += [build_regularizer("UpperBoundL2", threshold=1.0, dims=dims) for dims in ("population", "neuron", -1)]
    loss = LOSS(out.readout, batch.labels) + penalty(bounds, out.counts)
    return loss, torch.autograd.grad(loss, [w for w in network.parameters() if w.requires_grad])


@pytest.mark.parametrize("size", [2, 3, 11])
@pytest.mark.parametrize("method", ["superspike", "stochasticsuperspike"])
def test_weighted_shares_have_the_gradient_of_the_batch_whatever_the_penalty(batch, method, size):
    network = make_network(method)
    whole_loss, whole = gradients(network, batch)
    loss, mean = 0.0, [torch.zeros_like(g) for g in whole]
    for rank in range(size):
        part, weight = Processes(rank, size).share(batch)
        part_loss, part_gradients = gradients(network, part)
        loss += weight / size * part_loss
        mean = [m + weight / size * g for m, g in zip(mean, part_gradients, strict=True)]
    torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(mean, list(whole), rtol=1e-5, atol=1e-6)


def test_a_function_of_the_mean_over_the_batch_has_its_value_and_gradient(batch, monkeypatch):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = x.mean(0).square().sum()
    (gradient,) = torch.autograd.grad(value, x)
    shares = [(x[:3], 0.75), (x[3:], 1.25)]
    summed = sum(weight / 2 * part.detach().mean(0) for part, weight in shares)
    monkeypatch.setattr(Processes, "total", lambda self, values: summed)
    found = [Processes(k, 2).with_common_mean(*share).mean(0).square().sum() for k, share in enumerate(shares)]
    torch.testing.assert_close(torch.stack(found), value.expand(2))
    (mean,) = torch.autograd.grad(sum(weight / 2 * f for f, (_, weight) in zip(found, shares, strict=True)), x)
    torch.testing.assert_close(mean, gradient)


def test_spikes_of_a_share_are_those_of_the_batch(batch):
    network = make_network()
    whole = network(batch, seed=3, draw=2, record=True).spikes[0]
    part = network(samples(batch, 2, 5), seed=3, draw=2, record=True).spikes[0]
    assert torch.equal(part, whole[:, 2:5])
    assert not torch.equal(part, network(samples(batch, 2, 5), seed=3, draw=3, record=True).spikes[0])


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    many, gpu = Processes(3, 4), torch.device("cuda")
    assert many.device(gpu) == torch.device("cuda:1")
    assert many.device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda:0")) == torch.device("cuda:0")
    with pytest.raises(UserError, match="4 processes take a GPU each; give device=cuda"):
        many.device(torch.device("cuda:0"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="--nproc-per-node=2"):
        many.device(gpu)


@pytest.mark.parametrize(("gpus", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_gradients_are_exchanged_where_they_are(gpus, backend, monkeypatch, tmp_path):
    class AskedError(Exception):
        pass

    def connect(backend):
        raise AskedError(backend)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "init_process_group", connect)
    with pytest.raises(AskedError, match=f"^{backend}$"), open_run(tmp_path, {}):
        pass


# 48 training samples: batches of 15, 15, 15 and 3; 6 validation samples
OPTIONS = [*TINY, "batch_size=15", "nb_epochs=5", "test_draws=1", "plot=none", "fano.evaluate=false"]
OPTIONS += ["method.target_sigma_u=2", "dataset.rec=true"]
# penalties on the mean over the batch, which no process has by itself, and on each sample
OPTIONS += ["regularizer.dims=batch", "regularizer.upperBoundL2Threshold=0.1", "regularizer.upperBoundL2Strength=1"]
OPTIONS += ["regularizer.lowerBoundL2Threshold=5", "regularizer.lowerBoundL2Strength=0.1"]


def torchrun(*command):
    """What two processes say, and the exit code that torchrun gives."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen([*starter, *map(str, command)], stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            said, complained = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.terminate()  # and with it the processes, which a SIGKILL would leave
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def require_same_curve(several, single):
    assert several.metrics.keys() == single.metrics.keys()
    for name in single.metrics.keys() - {"seconds"}:
        np.testing.assert_allclose(several.metrics[name], single.metrics[name], rtol=1e-5, err_msg=name)
    weights, expected = several.checkpoint()["model"], single.checkpoint()["model"]
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-4, atol=1e-5)
    assert several.summary["test_acc"] == single.summary["test_acc"]
    assert several.summary["test_loss"] == pytest.approx(single.summary["test_loss"], rel=1e-5)


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    done = torchrun(SCRIPT, *OPTIONS, "method=superspike", f"hydra.run.dir={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1  # the second process is silent
    load_script().main([*OPTIONS, "method=superspike", f"hydra.run.dir={tmp_path / 'one'}"])
    (several,), (single,) = load_runs(tmp_path / "two"), load_runs(tmp_path / "one")
    assert several.status == "done"
    require_same_curve(several, single)


DYING = """
import os, runpy, signal, sys
from surgrad.training.fit import Fit

epoch = Fit.epoch

def die(self, number, *rest):
    if number == 3 and self.plan.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return epoch(self, number, *rest)

Fit.epoch = die
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_goes_on_with_the_same_command(tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    # of a stochastic network
    killed = [SCRIPT, *OPTIONS, f"hydra.run.dir={tmp_path / 'killed'}"]
    done = torchrun(tmp_path / "dying.py", *killed)
    assert done.returncode != 0
    assert done.stderr.count("error: another process of this run has ended; the same command goes on") == 1
    assert f"exitcode  : -{int(signal.SIGKILL)}" in done.stderr  # torchrun names the process
    (record,) = load_runs(tmp_path / "killed")
    assert record.status == "interrupted"
    assert record.checkpoint()["epoch"] == 2
    assert not list(record.folder.glob("*.tmp"))

    done = torchrun(*killed)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 2" in done.stdout
    load_script().main([*OPTIONS, f"hydra.run.dir={tmp_path / 'whole'}"])
    (several,), (single,) = load_runs(tmp_path / "killed"), load_runs(tmp_path / "whole")
    assert several.summary["attempts"] == 2
    require_same_curve(several, single)


@pytest.mark.slow
def test_a_mistake_that_all_meet_is_said_once(tmp_path):
    done = torchrun(SCRIPT, *OPTIONS, "regularizer.dims=[3]", f"hydra.run.dir={tmp_path}")
    assert done.returncode != 0
    assert done.stderr.count("error: dims=[3] does not fit") == 1
    assert load_runs(tmp_path)[0].status == "failed"


def test_a_sweep_is_not_for_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        load_script().main(["-m", *OPTIONS, "seed=1,2"])
    assert "start it once for each run, without -m" in capsys.readouterr().err
