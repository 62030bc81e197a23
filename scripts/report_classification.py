"""Tables and figures of docs/results.md from finished classification runs.

python3 scripts/report_classification.py [--runs GLOB] [--figures docs/figures]
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from surgrad.analysis import intervals as study
from surgrad.datasets.baselines import count_baseline
from surgrad.errors import UserError
from surgrad.experiments.datasets import dataset_config
from surgrad.figures import plots as figures
from surgrad.runs.record import REPO, RunRecord, load_runs

SCORES = {
    "train": lambda run: study.last_value(run, "train_acc"),
    "validation": lambda run: run.summary["valid_acc"],
    "test": lambda run: run.summary["test_acc"],
    "validation, swapped": lambda run: run.summary["valid_acc_other"],
    "test, swapped": lambda run: run.summary["test_acc_other"],
    "test, best validation epoch": lambda run: run.summary["test_acc_best_valid"],
}


CURVES = ("train_loss", "train_acc", "valid_loss", "valid_acc")


def activity_columns(layers: int) -> dict[str, Callable[[RunRecord], float]]:
    """Rate (Hz) and Fano factor of every hidden layer after training."""

    def last(column: str) -> Callable[[RunRecord], float]:
        return lambda run: study.last_value(run, column)

    columns = {f"rate {k + 1} (Hz)": last(f"firing_rate-hid_{k}") for k in range(layers)}
    columns |= {f"Fano {k + 1}": last(f"fano-hid_{k}") for k in range(layers)}
    return columns | {
        "s/epoch (median)": lambda run: study.median_value(run, "seconds"),
        "peak MiB": lambda run: run.summary["peak_memory_mib"],
    }


def baseline(runs: Sequence[RunRecord]) -> str:
    """Spike-count logistic regression on the splits of these runs, once per seed."""
    rows = {}
    for run in runs:
        if run.get("seed") not in rows:
            train, valid, test = dataset_config(run.config["dataset"]).splits()
            if valid is None:
                raise UserError(f"{run.name}: no validation set, by which the baseline would be chosen")
            rows[run.get("seed")] = count_baseline(train, valid, test)
    cells = [str(study.interval([row[f"{part}_acc"] for row in rows.values()])) for part in ("train", "valid", "test")]
    return f"| spike counts, logistic regression | {len(rows)} | {' | '.join(cells)} | - | - | - |"


def report(runs: Sequence[RunRecord], folder: Path) -> str:
    """Markdown for all data sets among the runs; figures of the learning curves go to ``folder``."""
    sections = []
    for (name, alpha), group in study.grouped(study.finished(runs), "dataset.name", "dataset.alpha_randman").items():
        dataset = name if alpha is None else f"{name}_alpha_{alpha:g}"
        methods = study.grouped(group, "method.name")
        lines = [f"### {dataset}", "", study.table(methods, SCORES, "method"), baseline(group), ""]
        lines += [study.table(methods, activity_columns(study.nb_layers(group)), "method")]
        sections.append("\n".join(lines))
        curves = {name: {column: study.curve(part, column) for column in CURVES} for (name,), part in methods.items()}
        path = folder / f"classification_{dataset}.png"
        figures.learning_curves(curves, chance=study.chance(group)).savefig(path)
        print(f"wrote {path}")
    return "\n\n".join(sections)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default=str(REPO / "Classification/Runs"), help="glob of run folders")
    parser.add_argument("--figures", type=Path, default=REPO / "docs/figures")
    options = parser.parse_args(arguments)
    print(report(load_runs(options.runs), options.figures))


if __name__ == "__main__":
    main()
