"""Tables and figures of finished classification runs, those of docs/results.md by default.

python3 scripts/report_classification.py [--runs FOLDER_OR_GLOB] [--figures docs/figures]

Runs are put together by every setting in which they differ, seeds apart, and the report says by which.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgrad.analysis.rows import (
    Number,
    by_difference,
    chance,
    finished,
    grouped,
    grouping,
    median_value,
    nb_layers,
    shown,
    started_from,
    table,
)
from surgrad.datasets.baselines import count_baseline
from surgrad.errors import UserError
from surgrad.experiments.trained import TrainedRun
from surgrad.figures import plots as figures
from surgrad.runs.intervals import curve, interval
from surgrad.runs.record import REPO, RunRecord, load_runs

#: Other scripts' runs that lie beside those of this one are left out.
SCRIPT = "deep_convSNN"

SCORES: Mapping[str, Number] = {
    "train": "train_acc",
    "validation": "valid_acc",
    "test": "test_acc",
    "validation, swapped": "valid_acc_other",
    "test, swapped": "test_acc_other",
    "test, best validation epoch": "test_acc_best_valid",
}

CURVES = ("train_loss", "train_acc", "valid_loss", "valid_acc")


def activity_columns(layers: int) -> dict[str, Number]:
    """Rate (Hz) and Fano factor of every hidden layer after training, and the cost."""
    columns: dict[str, Number] = {f"rate {k} (Hz)": f"firing_rate-hid_{k}" for k in range(layers)}
    columns |= {f"Fano {k}": f"fano-hid_{k}" for k in range(layers)}
    return columns | {"s/epoch (median)": lambda run: median_value(run, "seconds"), "peak MiB": "peak_memory_mib"}


def baseline(runs: Sequence[RunRecord]) -> str:
    """Spike-count logistic regression on the splits of these runs, once per seed; or why there is none."""
    rows = {}
    try:
        for run in runs:
            if run.get("seed") not in rows:
                train, valid, test = TrainedRun(run.folder).splits()
                if valid is None:
                    raise UserError(f"{train.name}: there is no validation set to choose its strength by")
                rows[run.get("seed")] = count_baseline(train, valid, test)
    except UserError as error:
        return f"\nNo baseline: {error}."
    cells = [shown(interval(row[f"{part}_acc"] for row in rows.values())) for part in ("train", "valid", "test")]
    return f"| spike counts, logistic regression | {len(rows)} | {' | '.join(cells)} | - | - | - |"


def report(runs: Sequence[RunRecord], folder: Path) -> str:
    """Markdown for all data sets among the runs; figures of the learning curves go to ``folder``."""
    sections = []
    folder.mkdir(parents=True, exist_ok=True)
    ours = [run for run in runs if started_from(run)[0] == SCRIPT]
    if not ours:
        raise UserError(f"none of {len(runs)} runs is one of Classification/{SCRIPT}.py")
    for (name, alpha), group in grouped(finished(ours), "dataset.name", "dataset.alpha_randman").items():
        dataset = name if alpha is None else f"{name}_alpha_{alpha:g}"
        keys, parts = by_difference(group, "method.name")
        lines = [f"### {dataset}", "", grouping(keys, parts), ""]
        lines += [table(parts, SCORES, "network"), baseline(group), ""]
        lines += [table(parts, activity_columns(nb_layers(group)), "network")]
        sections.append("\n".join(lines))
        columns = [column for column in CURVES if all(column in run.metrics for run in group)]
        curves = {label: {column: curve(part, column) for column in columns} for label, part in parts.items()}
        path = folder / f"classification_{dataset}.png"
        figures.learning_curves(curves, chance=chance(group)).savefig(path)
        print(f"wrote {path}")
    return "\n\n".join(sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", default=str(REPO / "Classification/Runs"), help="folder or glob of run folders")
    parser.add_argument("--figures", type=Path, default=REPO / "docs/figures")
    options = parser.parse_args(arguments)
    try:
        print(report(load_runs(options.runs), options.figures))
    except (UserError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
