"""Spoken commands with and without noise: validation accuracy against updates, and against the slope of the noise.

python3 scripts/report_noise.py                    # draws docs/figures/commands_noise.png from what is kept
python3 scripts/report_noise.py --runs FOLDER...   # first keeps the curves of these runs of deep_convSNN.py, too

Curves are kept in Classification/analysis/commands_updates.csv, scores by slope in docs/measured.csv.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from surgrad.analysis.measured import read_measured
from surgrad.analysis.rows import finished
from surgrad.errors import UserError
from surgrad.figures.updates import updates_and_slope
from surgrad.runs import files
from surgrad.runs.record import REPO, load_runs

CURVES = REPO / "Classification/analysis/commands_updates.csv"
FIGURE = REPO / "docs/figures/commands_noise.png"
COLUMNS = ("method", "seed", "epoch", "valid_acc")
#: Claims that hold the scores of the right panel, by slope, and those of networks without noise.
BY_SLOPE = {
    5.0: "commands-valid-slope-5",
    10.0: "commands-valid-stochasticsuperspike",
    20.0: "commands-valid-slope-20",
    40.0: "commands-valid-slope-40",
}
WITHOUT_NOISE = "commands-valid-superspike"
UPDATES_PER_EPOCH, NB_UPDATES, CHANCE = 34, 510, 0.05  # 1080 samples in batches of 32, 15 epochs, 20 words

Line = tuple[str, int, int, float]


def kept(path: Path) -> list[Line]:
    """Lines of the file of curves; none without one."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [(r["method"], int(r["seed"]), int(r["epoch"]), float(r["valid_acc"])) for r in csv.DictReader(file)]


def of_runs(folders: Iterable[str]) -> list[Line]:
    """Lines of finished runs."""
    lines = []
    for run in (run for folder in folders for run in finished(load_runs(folder))):
        name, seed = str(run.get("method.name")), int(run.get("seed"))
        accuracies = np.asarray(run.metrics["valid_acc"], dtype=float)
        lines += [
            (name, seed, int(epoch), round(float(accuracy), 4))
            for epoch, accuracy in zip(run.metrics["epoch"], accuracies, strict=True)
            if not np.isnan(accuracy)
        ]
    return lines


def keep(path: Path, lines: Iterable[Line]) -> None:
    """Writes the curves; of two lines for the same method, seed and epoch the last counts."""
    newest = {line[:3]: line for line in lines}
    with files.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(newest[key] for key in sorted(newest))


def _seeds(lines: Iterable[Line], method: str) -> list[int]:
    return sorted({line[1] for line in lines if line[0] == method})


def _curve(lines: Iterable[Line], method: str, seed: int) -> tuple[list[int], list[float]]:
    found = [line for line in lines if line[:2] == (method, seed)]
    return [line[2] for line in found], [line[3] for line in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=[], help="folders of run folders whose curves are added")
    options = parser.parse_args(arguments)
    try:
        if options.runs:
            keep(CURVES, [*kept(CURVES), *of_runs(options.runs)])
    except (UserError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    lines = kept(CURVES)
    curves = {
        method: [
            (UPDATES_PER_EPOCH * np.array(epochs), np.array(accuracies))
            for epochs, accuracies in (_curve(lines, method, seed) for seed in _seeds(lines, method))
        ]
        for method in sorted({line[0] for line in lines})
    }
    measured = read_measured(REPO / "docs/measured.csv")
    scores = {name: (np.array([*one.values.values()]), one.interval) for name, one in measured.items()}
    by_slope = {slope: scores[name] for slope, name in BY_SLOPE.items() if name in scores}
    figure = updates_and_slope(curves, by_slope, scores[WITHOUT_NOISE], nb_updates=NB_UPDATES, chance=CHANCE)
    figure.savefig(FIGURE)
    print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main()
