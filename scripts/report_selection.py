"""Adaptive neurons and delays beside plain ones: accuracies, and the gap that choosing an epoch by the test set makes.

python3 scripts/report_selection.py RUNS... [--figure docs/figures/dense_adaptive_delays.png]

RUNS are folders of runs of Classification/dense_SNN.py with watch_test=true.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from surgrad.analysis import intervals as study
from surgrad.analysis.selection import expected_bias, selection
from surgrad.figures import plots as figures
from surgrad.runs.record import RunRecord, load_runs

PLAIN = ("LIF", "Dense")

COLUMNS = {
    "validation, best epoch": lambda run: run.summary["valid_acc_best_valid"],
    "test, best validation epoch": lambda run: selection(run).by_validation,
    "test, last epoch": lambda run: selection(run).last,
    "test, best test epoch": lambda run: selection(run).by_test,
    "selection bias": lambda run: selection(run).bias,
    "spikes per sample": lambda run: run.summary["test_spikes_per_sample"],
}


def by_configuration(runs: Sequence[RunRecord]) -> dict[tuple[Any, ...], list[RunRecord]]:
    """Finished runs by neuron and connection."""
    groups = study.grouped(study.finished(runs), "neuron._target_", "connection._target_")
    return {tuple(str(part).split(".")[-1] for part in key): group for key, group in groups.items()}


def paired(runs: Sequence[RunRecord], plain: Sequence[RunRecord], column: str) -> study.Interval:
    """Mean difference of a column to the plain network of the same seed."""
    value = COLUMNS[column]
    partner = {run.get("seed"): value(run) for run in plain}
    return study.interval(value(run) - partner[run.get("seed")] for run in runs if run.get("seed") in partner)


def bound(runs: Sequence[RunRecord], nb_samples: int) -> str:
    """What chance alone would add if epochs were independent, at the mean test accuracy of the last epoch."""
    acc = study.interval(selection(run).last for run in runs).mean
    nb_epochs = len(runs[0].metrics["epoch"])
    bias = expected_bias(acc, nb_samples, nb_epochs)
    return f"{nb_epochs} independent epochs at {acc:.3f} on {nb_samples} samples: + {bias:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--figure", help="where the learning curves go")
    parser.add_argument("--test-samples", type=int, default=180, help="samples in the test set")
    options = parser.parse_args()
    groups = by_configuration(load_runs(options.runs))
    print(study.table(groups, COLUMNS, "neuron, connection"))
    for key, runs in groups.items():
        print(f"{', '.join(key)}: {bound(runs, options.test_samples)}")
        if key != PLAIN and PLAIN in groups:
            for column in ("validation, best epoch", "test, best validation epoch"):
                print(f"  above {', '.join(PLAIN)}, {column}: {paired(runs, groups[PLAIN], column)}")
    if options.figure:
        columns = ("train_loss", "train_acc", "valid_loss", "valid_acc")
        curves = {", ".join(key): {c: study.curve(runs, c) for c in columns} for key, runs in groups.items()}
        chance = study.chance(next(iter(groups.values())))
        figures.learning_curves(curves, chance=chance).savefig(options.figure)


if __name__ == "__main__":
    main()
