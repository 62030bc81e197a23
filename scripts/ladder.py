"""The ladder on spoken commands of unseen speakers: what every part buys, from spike counts to the whole recipe.

python3 scripts/ladder.py                   # the table, from the run folders that there are
python3 scripts/ladder.py --run minutes     # first runs every rung with one seed
python3 scripts/ladder.py --run hours       # … with five
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgrad.analysis.rows import Number, table
from surgrad.config.jobs import jobs_of_command
from surgrad.datasets.baselines import count_baseline
from surgrad.errors import UserError
from surgrad.experiments.datasets import DatasetConfig, dataset_config
from surgrad.experiments.dense.figures import ladder_figure
from surgrad.runs.record import REPO, RunRecord, load_runs, run_id

DENSE, NON_SPIKING = "python3 Classification/dense_SNN.py", "python3 Classification/non_spiking.py"
#: The published network, which sees 700 channels in steps of 2 ms, after as many updates as its 200 epochs on SHD are
CONVOLUTIONAL = "python3 Classification/deep_convSNN.py dataset=spoken_commands method=superspike"
#: Axonal delays in the loop of every hidden layer, seen through a triangle that narrows
LOOP = "connection@recurrent_connection=axonal_delays recurrent_connection.width=50e-3 lr_delay=0.05"

#: Adaptation by Euler's rule is stable at steps of 10 ms for weak coupling alone
EULER = "neuron.scheme=euler neuron.a=[0,8]"

#: The best of ten trials by validation accuracy (scripts/search.py --config-name=ladder nb_trials=10), to two digits
TUNED = (
    "dropout=0.06 tau_mem=21e-3 connection.max_delay=190e-3 dataset.augment.p_drop=0.08 "
    "dataset.augment.sigma_u_uniform=4.6"
)

#: What a rung adds to the one before, and its command.
RUNGS = {
    "feed-forward": f"{DENSE} --config-name=ladder/lif",
    "recurrent": f"{DENSE} --config-name=ladder/recurrent",
    "recurrent, + time constants of each neuron": f"{DENSE} --config-name=ladder/heterogeneous",
    "recurrent, + adaptation": f"{DENSE} --config-name=ladder/adaptive",
    "recurrent, + adaptation by Euler's rule": f"{DENSE} --config-name=ladder/adaptive {EULER}",
    "recurrent, + delays in the recurrence": f"{DENSE} --config-name=ladder/recurrent {LOOP}",
    "feed-forward, + normalisation, dropout, schedule, augmentation": f"{DENSE} --config-name=ladder/normalized",
    "feed-forward, + delays": f"{DENSE} --config-name=ladder/delays",
    "feed-forward, + a delay of each axon": f"{DENSE} --config-name=ladder/delays connection=axonal_delays",
    "feed-forward, + a delay of each dendrite": f"{DENSE} --config-name=ladder/delays connection=dendritic_delays",
    "feed-forward, + all of these": f"{DENSE} --config-name=ladder/full",
    "feed-forward, + all of these, tuned": f"{DENSE} --config-name=ladder/full {TUNED}",
    "feed-forward, + all of these, stochastic": f"{DENSE} --config-name=ladder/full neuron=stochastic_lif",
    "deep recurrent convolutional": f"{CONVOLUTIONAL} batch_size=32 nb_epochs=109 fano.repeats=100 test_draws=2",
    "GRU": f"{NON_SPIKING} model=gru",
    "convolution over time": f"{NON_SPIKING} model=convolutional",
}
SEEDS = {"minutes": (1,), "hours": (1, 2, 3, 4, 5)}

COLUMNS: dict[str, Number] = {
    "parameters": "nb_weights",
    "validation, best epoch": "valid_acc_best_valid",
    "test, best validation epoch": "test_acc_best_valid",
    "test, last epoch": "test_acc",
    "spikes per sample": "test_spikes_per_sample",
    "synaptic operations per sample": "test_synaptic_operations",
    "minutes": lambda run: float(run.metrics["seconds"][1:].sum()) / 60,
}


def lines(tier: str) -> list[str]:
    """The commands of a tier."""
    return [f"{line} seed={seed}" for line in RUNGS.values() for seed in SEEDS[tier]]


def run_all(tier: str) -> list[str]:
    """Runs the commands of a tier; those that are done say so and end. Returns those that failed."""
    failed = []
    for line in lines(tier):
        print(f"$ {line}", flush=True)
        _, *arguments = shlex.split(line)
        if subprocess.run([sys.executable, *arguments], cwd=REPO, check=False).returncode:
            failed.append(line)
    return failed


def found(where: Sequence[str]) -> dict[str, list[RunRecord]]:
    """The finished runs of every rung, by the ids that its commands stand for."""
    try:
        by_id = {run.summary.get("run_id"): run for run in load_runs(where) if run.status == "done"}
    except FileNotFoundError:
        by_id = {}
    groups: dict[str, list[RunRecord]] = {}
    for name, line in RUNGS.items():
        ids = [run_id(jobs_of_command(f"{line} seed={seed}")[0].settings) for seed in SEEDS["hours"]]
        groups[name] = [by_id[one] for one in ids if one in by_id]
    return {name: runs for name, runs in groups.items() if runs}


def baseline() -> dict[str, Any]:
    """Logistic regression on spike counts of the ladder's data."""
    job = jobs_of_command(RUNGS["feed-forward"])[0]
    data: DatasetConfig = dataset_config(job.settings["dataset"])
    train, valid, test = data.splits()
    if valid is None:
        raise UserError("the ladder's data set has no validation speakers")
    return count_baseline(train, valid, test)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=SEEDS, help="run what is missing in this tier first")
    parser.add_argument("--runs", nargs="+", default=[str(REPO / "Classification" / "Runs")], help="folders of runs")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    options = parser.parse_args(arguments)
    try:
        failed = run_all(options.run) if options.run else []
        groups = found(options.runs)
        if not groups:
            raise UserError(f"no run of the ladder below {', '.join(options.runs)}; start with --run minutes")
        counts = baseline()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(table(groups, COLUMNS, "rung"))
    print(
        f"\nspike counts, logistic regression: validation {counts['valid_acc']:.3f}, test {counts['test_acc']:.3f}; "
        f"chance {1 / 20:.3f}"
    )
    if options.figure:
        ladder_figure(groups, chance=1 / 20, counts=counts["test_acc"]).savefig(options.figure)
    if failed:
        raise SystemExit("failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
