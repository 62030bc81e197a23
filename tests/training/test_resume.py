"""Loops that a killed run goes on with: what a trainee and a study are asked for, and what is refused."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from surgrad.errors import UserError
from surgrad.runs.folder import open_run
from surgrad.runs.record import load_runs
from surgrad.training import resume
from surgrad.training.evaluation import Best, final_scores
from surgrad.training.resume import Pieces, Trainee, run_epochs


class Walk(Trainee):
    """A random walk: the simplest thing with a state and a generator."""

    shown = ("x",)
    lr_key = "step"

    def __init__(self, size=1, dies_in=None, fails_in=None):
        self.x, self.generator = torch.zeros(size), torch.Generator().manual_seed(1)
        self.dies_in, self.fails_in, self.saved = dies_in, fails_in, []

    def epoch(self, number, bar):
        if number == self.dies_in:
            raise KeyboardInterrupt
        if number == self.fails_in:
            raise UserError("lost the way")
        self.x += torch.randn(self.x.shape, generator=self.generator)
        bar.update()
        return {"x": float(self.x[0])}

    def due(self, number):
        return number % 3 == 0

    def state(self):
        self.saved.append(True)
        return {"x": self.x, "generator": self.generator.get_state()}

    def restore(self, state):
        self.x.copy_(state["x"])
        self.generator.set_state(state["generator"])


def walk(folder, trainee, epochs=range(8), **options):
    with open_run(folder, {"walk": 1}) as run:
        run_epochs(trainee, run, epochs, checkpoint_seconds=1e9, **options)
    return trainee


@pytest.mark.parametrize("dies_in", range(8))
def test_a_loop_that_died_ends_where_one_that_did_not_ends(tmp_path, dies_in):
    whole = walk(tmp_path / "whole", Walk())
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "cut", Walk(dies_in=dies_in))
    cut = walk(tmp_path / "cut", Walk())
    assert torch.equal(cut.x, whole.x)
    a, b = (load_runs(tmp_path / name)[0] for name in ("whole", "cut"))
    assert a.metrics["epoch"].tolist() == b.metrics["epoch"].tolist() == list(range(8))
    np.testing.assert_array_equal(a.metrics["x"], b.metrics["x"])
    assert a.checkpoint()["epoch"] == b.checkpoint()["epoch"] == 7


def test_checkpoints_come_when_due_when_time_has_passed_and_at_the_end(tmp_path):
    assert len(walk(tmp_path / "due", Walk()).saved) == 4  # after 0, 3, 6 and 7
    with open_run(tmp_path / "each", {}) as run:
        trainee = Walk()
        run_epochs(trainee, run, range(8))
    assert len(trainee.saved) == 8


def test_an_epoch_that_fails_is_named_with_what_is_kept_and_what_to_change(tmp_path):
    with pytest.raises(UserError, match=r"^epoch 5: lost the way; .* keeps epoch 3; try a smaller step$"):
        walk(tmp_path, Walk(fails_in=5))


@pytest.mark.parametrize(
    ("epochs", "size", "reason"), [(range(4), 1, "of epoch 6 of 3"), (range(12), 2, "size"), (range(12), 0, "size")]
)
def test_a_checkpoint_of_another_run_is_refused_in_one_line(tmp_path, epochs, size, reason):
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, Walk(size=3, dies_in=7))
    with pytest.raises(UserError, match=f"is not of this run .*{reason}.*rerun=all") as said:
        walk(tmp_path, Walk(size=size if size != 1 else 3), epochs)
    assert "\n" not in str(said.value)


def test_more_epochs_go_on_where_fewer_ended(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "long", Walk(dies_in=7))
    longer = walk(tmp_path / "long", Walk(), range(20))
    assert torch.equal(longer.x, walk(tmp_path / "whole", Walk(), range(20)).x)


# ---------------------------------------------------------------- pieces
class Pair(NamedTuple):
    mean: torch.Tensor
    spread: float


@dataclass(frozen=True)
class Found:
    values: np.ndarray
    pairs: tuple[Pair, ...]
    by_name: dict[str, list[int]]


def study(run, nb_pieces, dies_in=None):
    pieces, generator = Pieces(run, Found, Pair), torch.Generator().manual_seed(3)
    computed, found = [], []

    def compute():
        if len(found) == dies_in:
            raise KeyboardInterrupt
        computed.append(len(found))
        x = torch.randn(4, generator=generator, dtype=torch.float64)
        return Found(x.numpy(), (Pair(x.mean(), np.float64(x.std())),), {"k": [len(found)]})

    for k in range(nb_pieces):
        found.append(pieces.under("part")(f"piece {k}", compute, generator))
        pieces.log({"k": k, "mean": float(found[-1].pairs[0].mean)})
    return computed, found


@pytest.mark.parametrize("dies_in", range(4))
def test_a_study_that_died_goes_on_with_the_piece_that_it_was_at(tmp_path, dies_in, caplog):
    with open_run(tmp_path / "whole", {}) as run:
        _, whole = study(run, 4)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "cut", {}) as run:
        study(run, 4, dies_in)
    with caplog.at_level(logging.INFO), open_run(tmp_path / "cut", {}) as run:
        computed, found = study(run, 4)
    assert computed == list(range(dies_in, 4))
    assert (f"going on after {dies_in} pieces" in caplog.text) == (dies_in > 0)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert (a.pairs, a.by_name) == (b.pairs, b.by_name)
        assert isinstance(a.pairs[0], Pair)
    assert load_runs(tmp_path / "cut")[0].metrics["k"].tolist() == [0, 1, 2, 3]


def test_a_piece_of_a_kind_that_was_not_named_is_a_mistake_of_the_programmer(tmp_path):
    with pytest.raises(TypeError, match="tensors, numbers"), open_run(tmp_path, {}) as run:
        Pieces(run)("a", lambda: Pair(torch.zeros(1), 0.0))


# ---------------------------------------------------------------- the test set
def test_final_scores_are_of_the_last_and_the_best_weights_under_every_variant():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(5.0)
    best = Best(2, 0.9, 0.1, {"weight": torch.full((1, 1), 3.0)})
    prepared = []

    def score(data):
        return {"w": network.weight.item() * data * (-1 if prepared[-1][0] == "_other" else 1)}

    variants = {name: lambda epoch, name=name: prepared.append((name, epoch)) for name in ("", "_other")}
    found = final_scores(network, best, 7, {"valid": None, "test": 10.0}, score, variants)
    assert found == {
        "best_epoch": 2,
        "test_w": 50.0,
        "test_w_other": -50.0,
        "test_w_best_valid": 30.0,
        "test_w_other_best_valid": -30.0,
    }
    assert prepared == [("", 7), ("_other", 7), ("", 2), ("_other", 2)]
    assert network.weight.item() == 5.0


def test_what_is_left_is_said_at_the_pace_so_far(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    watch = resume._Watch(done=10)
    now[0] += 30
    assert not watch.silent
    assert watch.left(12, 20) == "; about 2 min to go"  # 2 of 10 epochs in 30 s
    now[0] += 61
    assert watch.silent
    assert watch.left(20, 20) == ""
    assert watch.left(19, 20) == "; about 10 s to go"
    assert watch.left(11, 200) == "; about 5 h to go"
