"""The four gradients that the notebook compares belong to one loss of one network."""

import pytest

from surgrad.experiments.eventprop.comparison import GRADIENTS, Problem, cosine, exact, online, surrogate, trained

PROBLEM = Problem(sizes=(12, 8, 3), duration=30e-3, dt=0.1e-3, rate=60.0, seed=2)


def test_all_methods_see_the_same_loss_up_to_the_grid():
    losses = [method(PROBLEM).loss for method in GRADIENTS.values()]
    assert losses[0] > 0
    assert losses == pytest.approx([losses[0]] * 4, rel=0.1)


def test_surrogate_and_online_gradients_meet_in_the_output_layer():
    """They share surrogate and error there; only the reset's part of the trace differs."""
    assert cosine(surrogate(PROBLEM).output, online(PROBLEM).output) > 0.8


def test_memory_of_the_online_rule_is_flat_and_that_of_backpropagation_is_not():
    long = Problem(sizes=PROBLEM.sizes, duration=60e-3, rate=60.0, seed=2)
    assert online(long).nb_bytes == online(PROBLEM).nb_bytes
    assert surrogate(long).nb_bytes > 1.8 * surrogate(PROBLEM).nb_bytes
    assert exact(long).nb_bytes < surrogate(long).nb_bytes


def test_without_runs_of_both_methods_those_that_ship_are_shown(tmp_path):
    runs = trained(tmp_path)
    assert {method: sorted(run.get("seed") for run in group) for method, group in runs.items()} == {
        "eventprop": [0, 1, 2],
        "surrogate": [0, 1, 2],
    }
    assert all(run.metrics["epoch"][-1] == 100 for group in runs.values() for run in group)
