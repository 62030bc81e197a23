"""Table of docs/results_dense.md: accuracies and the gap that choosing by the test set makes, by configuration.

python3 scripts/report_selection.py RUNS...      (folders of runs with watch_test=true)
"""

import argparse
from collections.abc import Sequence

from surgrad import study
from surgrad.runs import RunRecord, load_runs
from surgrad.selection import selection

COLUMNS = {
    "validation, best epoch": lambda run: run.summary["valid_acc_best_valid"],
    "test, best validation epoch": lambda run: selection(run).by_validation,
    "test, last epoch": lambda run: selection(run).last,
    "test, best test epoch": lambda run: selection(run).by_test,
    "selection bias": lambda run: selection(run).bias,
    "spikes per sample": lambda run: run.summary["test_spikes_per_sample"],
    "s/epoch (median)": lambda run: study.median_value(run, "seconds"),
}


def report(runs: Sequence[RunRecord]) -> str:
    """A Markdown table with a row per data set, neuron and connection."""
    groups = study.grouped(study.finished(runs), "dataset.name", "neuron._target_", "connection._target_")
    named = {tuple(str(part).split(".")[-1] for part in key): group for key, group in groups.items()}
    return study.table(named, COLUMNS, "data set, neuron, connection")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    print(report(load_runs(parser.parse_args().runs)))


if __name__ == "__main__":
    main()
