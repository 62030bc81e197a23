"""Adaptive neurons and delays beside plain ones: accuracies, and the gap that choosing an epoch by the test set makes.

python3 scripts/report_selection.py RUNS... [--figure curves.png]

RUNS are folders of runs of Classification/dense_SNN.py with watch_test=true. They are put together by every setting in
which they differ, seeds apart, and the report says by which.
"""

import argparse
from collections.abc import Sequence

from surgrad.analysis.rows import (
    Number,
    chance,
    differing,
    finished,
    grouped,
    grouping,
    label,
    paired_difference,
    table,
)
from surgrad.analysis.selection import expected_bias, selection
from surgrad.errors import UserError
from surgrad.figures import plots as figures
from surgrad.runs.intervals import curve, interval
from surgrad.runs.record import RunRecord, load_runs

KINDS = ("neuron._target_", "connection._target_")
PLAIN = ("LIF", "Dense")

COLUMNS: dict[str, Number] = {
    "validation, best epoch": "valid_acc_best_valid",
    "test, best validation epoch": lambda run: selection(run).by_validation,
    "test, last epoch": lambda run: selection(run).last,
    "test, best test epoch": lambda run: selection(run).by_test,
    "selection bias": lambda run: selection(run).bias,
    "spikes per sample": "test_spikes_per_sample",
}


def kind(run: RunRecord) -> tuple[str, ...]:
    """Classes of neuron and connection."""
    return tuple(str(run.get(key)).rpartition(".")[2] for key in KINDS)


def bound(runs: Sequence[RunRecord], nb_samples: int) -> str:
    """What chance alone would add if epochs were independent, at the mean test accuracy of the last epoch."""
    acc = interval(selection(run).last for run in runs).mean
    nb_epochs = len(runs[0].metrics["epoch"])
    bias = expected_bias(acc, nb_samples, nb_epochs)
    return f"{nb_epochs} independent epochs at {acc:.3f} on {nb_samples} samples: + {bias:.3f}"


def report(runs: Sequence[RunRecord], nb_samples: int) -> tuple[str, dict[str, list[RunRecord]]]:
    """The report, and the runs by all that differs: neuron and connection first."""
    keys = [*KINDS, *(key for key in differing(runs) if key not in KINDS)]
    by_values = grouped(runs, *keys)
    groups = {label(keys, values): group for values, group in by_values.items()}
    plain = {values[2:]: group for values, group in by_values.items() if kind(group[0]) == PLAIN}
    lines = [grouping(keys, groups), "", table(groups, COLUMNS, "neuron, connection")]
    for values, group in by_values.items():
        lines.append(f"{label(keys, values)}: {bound(group, nb_samples)}")
        if kind(group[0]) != PLAIN and values[2:] in plain:
            for column in ("validation, best epoch", "test, best validation epoch"):
                gain = paired_difference(group, plain[values[2:]], COLUMNS[column])
                lines.append(f"  above {', '.join(PLAIN)}, {column}: {gain}")
    return "\n".join(lines), groups


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--figure", help="where the learning curves go")
    parser.add_argument("--test-samples", type=int, default=180, help="samples in the test set")
    options = parser.parse_args()
    try:
        runs = finished(load_runs(options.runs))
        text, groups = report(runs, options.test_samples)
    except (UserError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    print(text)
    if options.figure:
        columns = ("train_loss", "train_acc", "valid_loss", "valid_acc")
        curves = {name: {column: curve(group, column) for column in columns} for name, group in groups.items()}
        figures.learning_curves(curves, chance=chance(runs)).savefig(options.figure)


if __name__ == "__main__":
    main()
