"""A final number of finished runs against a setting that was swept: the figure and the table.

figure, text = plot(load_runs("Classification/Runs/robustness"), "surrogate.beta", "test_acc", by="surrogate")
surgrad runs plot Classification/Runs/robustness --x surrogate.beta --y test_acc --by surrogate --out slope.png
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from surgrad.analysis.rows import chance, differing, finished, grouped, grouping, label, order, points
from surgrad.errors import UserError
from surgrad.figures.plots import SHARE
from surgrad.figures.sweeps import Curve, categories, swept
from surgrad.runs import files, tables
from surgrad.runs.intervals import Interval
from surgrad.runs.record import RunRecord, load_runs


def plot(runs: Sequence[RunRecord], x: str, y: str, by: str | None = None) -> tuple[Figure, str]:
    """``y`` against ``x``, a line for each value of ``by`` and of every other key that differs; seeds are repeats.

    Args:
        runs: those that are not finished are left out.
        x: dotted key of the configuration.
        y: final number, or column of metrics.csv, of which the last value counts.
        by: dotted key of the configuration, or of a part of it that has a name or class, such as "surrogate".

    Returns:
        the figure (dots: runs; marks: mean and 95 % interval) and a Markdown table with mean, interval and n.

    Raises:
        UserError: naming the keys or numbers there are if one is not among them.
    """
    done = finished(runs)
    _require(done, x, y, by)
    others = [key for key in differing(done) if key != x]
    keys = list(dict.fromkeys([*([by] if by else []), *(key for key in others if not _is_part(key, by))]))
    keys = [_named(done, key) for key in keys]
    lines = {label(keys, values): points(group, x, y) for values, group in grouped(done, *keys).items()}
    numbers = {len(values) for line in lines.values() for values, _ in line.values()}
    seeds = f"n = {min(numbers)}" if len(numbers) == 1 else f"n = {min(numbers)} to {max(numbers)}"
    figure = _draw(lines, x, f"{y}\n(mean, 95 % interval, {seeds})", chance(done) if "acc" in y.split("_") else None)
    sizes = {name: sum(len(v) for v, _ in line.values()) * [0] for name, line in lines.items()}
    says = grouping(keys, sizes) if keys else f"At each {x} runs differ in the seed alone."
    return figure, f"{says}\n\n{_table(lines, x, y)}"


def _require(runs: Sequence[RunRecord], x: str, y: str, by: str | None) -> None:
    absent = object()
    for key in filter(None, (x, by)):
        if all(run.get(key, absent) is absent for run in runs):
            there = ", ".join(differing(runs)) or "none but the seed"
            raise UserError(f"{key}: no run has this key; keys that differ between these runs: {there}")
    if all(tables.metric(run, y) is None for run in runs):
        numbers = sorted({name for run in runs for name, value in run.summary.items() if isinstance(value, float)})
        raise UserError(f"{y}: no run has this number; there are: {', '.join(numbers)}")


def _is_part(key: str, by: str | None) -> bool:
    """Whether a key only says in another way which value `by` has: the class or name of that part."""
    return by is not None and (key == by or key in (f"{by}._target_", f"{by}.name"))


def _named(runs: Sequence[RunRecord], key: str) -> str:
    """A part of the configuration by its name or class."""
    if any(isinstance(run.get(key), dict) for run in runs):
        return next((f"{key}.{last}" for last in ("name", "_target_") if runs[0].get(f"{key}.{last}") is not None), key)
    return key


def _draw(lines: Mapping[str, Curve], x: str, ylabel: str, by_chance: float | None) -> Figure:
    values = sorted({value for line in lines.values() for value in line}, key=order)
    means = [interval[0] for line in lines.values() for _, interval in line.values()]
    share = by_chance is not None or all(0 <= mean <= 1 for mean in means)
    limits = SHARE if share else (-math.inf, math.inf)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numeric:
        short = {value: str(value).rpartition(".")[2] if x.endswith("._target_") else str(value) for value in values}
        named = {name: {short[value]: line[value] for value in values if value in line} for name, line in lines.items()}
        figure = categories(named, ylabel, chance=by_chance, limits=limits)
        figure.axes[0].set_xlabel(x.removesuffix("._target_"))
        return figure
    log = values[0] > 0 and len(values) > 2 and values[-1] / values[0] >= 10
    scale = "log" if log else "linear"
    return swept({"": lines}, x, ylabel, xscale=scale, chance=by_chance, limits=limits, size=(4.2, 3.2))


def _table(lines: Mapping[str, Curve], x: str, y: str) -> str:
    rows = [f"| runs | {x} | {y} | 95 % interval | n |", "|---|---|---|---|---|"]
    for name, line in lines.items():
        for value, (_, interval) in line.items():
            shown = str(value).rpartition(".")[2] if x.endswith("._target_") else tables.number(value)
            rows.append(f"| {name} | {shown} | {_cells(interval)} |")
    return "\n".join(rows)


def _cells(interval: tuple[float, ...] | Interval) -> str:
    mean, low, high, n = interval
    ends = "-" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
    return f"{mean:.4g} | {ends} | {n:.0f}"


def main(arguments: Sequence[str]) -> None:
    """The command `surgrad runs plot`. Raises: UserError for runs, keys or numbers that are not there."""
    parser = argparse.ArgumentParser(prog="surgrad runs plot", description="A number against a key that was swept.")
    parser.add_argument("where", nargs="+", metavar="WHERE", help="folders or globs of runs")
    parser.add_argument("--x", required=True, help="key of the configuration, e.g. surrogate.beta")
    parser.add_argument("--y", required=True, help="final number or column of metrics.csv, e.g. test_acc")
    parser.add_argument("--by", help="key, or part of the configuration, that a line stands for, e.g. surrogate")
    parser.add_argument("--out", type=Path, default=Path("plot.png"), help="the figure; default: plot.png")
    options = parser.parse_args(arguments)
    try:
        runs = load_runs(options.where)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    figure, text = plot(runs, options.x, options.y, options.by)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(options.out) as temporary:
        figure.savefig(temporary, format="png")
    sys.stdout.write(f"{text}\n\n{options.out}\n")
