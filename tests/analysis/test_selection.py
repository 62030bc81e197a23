"""The gap between choosing an epoch by the validation set and by the test set."""

import numpy as np
import pytest

from surgrad.analysis.selection import Selection, expected_bias, select, selection
from surgrad.errors import UserError
from surgrad.runs.record import RunRecord


def test_the_validation_set_chooses_by_accuracy_then_loss_then_time():
    test = np.array([0.1, 0.2, 0.3, 0.4, 0.35])
    loss = np.array([2.0, 1.0, 0.5, 0.5, 0.7])
    assert select(np.array([0.1, 0.6, 0.6, 0.6, 0.5]), test, loss) == Selection(0.3, 0.4, 0.35)
    assert select(np.array([0.1, 0.7, 0.6, 0.6, 0.5]), test, loss).by_validation == 0.2
    assert select(np.array([0.1, 0.7, 0.6, 0.6, 0.5]), test, loss).bias == pytest.approx(0.2)


@pytest.mark.parametrize(("acc", "nb_samples", "nb_epochs"), [(0.5, 180, 60), (0.9, 180, 40), (0.8, 2264, 100)])
def test_the_bias_of_equally_good_epochs_is_that_of_the_largest_binomial_count(acc, nb_samples, nb_epochs):
    rng = np.random.default_rng(3)
    biases = [
        select(*rng.binomial(nb_samples, acc, (2, nb_epochs)) / nb_samples, rng.random(nb_epochs)).bias
        for _ in range(2000)
    ]
    error = np.std(biases) / np.sqrt(len(biases))
    assert abs(np.mean(biases) - expected_bias(acc, nb_samples, nb_epochs)) < 4 * error
    assert np.mean(biases) > 1.5 * np.sqrt(acc * (1 - acc) / nb_samples)


def test_one_epoch_has_no_bias_and_more_epochs_have_more():
    assert expected_bias(0.7, 200, 1) == pytest.approx(0, abs=1e-12)
    biases = [expected_bias(0.7, 200, n) for n in (1, 5, 25, 125)]
    assert biases == sorted(biases)
    assert select(np.array([0.4]), np.array([0.3]), np.array([1.0])).bias == 0


def test_a_run_that_did_not_watch_says_how(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "metrics.csv").write_text("epoch,valid_loss,valid_acc\n0,2.0,0.1\n1,1.0,0.2\n")
    with pytest.raises(UserError, match="no column test_acc; run it with watch_test=true"):
        selection(RunRecord(tmp_path))
    (tmp_path / "metrics.csv").write_text("epoch,valid_loss,valid_acc,test_acc\n0,2,0.1,0.2\n1,1,0.2,0.1\n")
    assert selection(RunRecord(tmp_path)) == Selection(0.1, 0.2, 0.1)
