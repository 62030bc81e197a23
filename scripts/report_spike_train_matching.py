"""Figures and tables of docs/results_spike_train_matching.md from finished runs.

python scripts/report_spike_train_matching.py [--runs GLOB] [--figures docs/figures]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from surgrad.errors import UserError
from surgrad.experiments.spike_train_matching import analysis as matching_analysis
from surgrad.experiments.spike_train_matching import figures as figures_matching
from surgrad.experiments.spike_train_matching.analysis import PUBLISHED, Final
from surgrad.runs.intervals import interval
from surgrad.runs.record import REPO, RunRecord

LABELS = {
    "van_rossum": "van Rossum",
    "l2": "L2",
    "van_rossum_other": "van Rossum, spikes swapped",
    "rate_hidden": "hidden rate (Hz)",
    "rate_output": "output rate (Hz)",
    "fano_hidden": "Fano, hidden",
    "fano_output": "Fano, output",
    "cv_isi_hidden": "CV of ISI, hidden",
}


def shown(values: np.ndarray) -> str:
    """Mean and half width of its 95 % Student interval over seeds."""
    if np.isnan(values).all():
        return "-"
    found = interval(values)
    return f"{found.mean:.3g} ± {found.high - found.mean:.2g}"


def tables(runs: dict[str, list[RunRecord]]) -> str:
    """Final numbers by method beside the published ones, and every seed's van Rossum distance, as Markdown."""
    numbers = {
        method: np.array([matching_analysis.final_numbers(run) for run in group]) for method, group in runs.items()
    }
    seeds = {method: [run.get("seed") for run in group] for method, group in runs.items()}
    lines = ["| | " + " | ".join(f"{m} (n = {len(g)}) | published" for m, g in runs.items()) + " |"]
    lines.append("|---" * (1 + 2 * len(runs)) + "|")
    for k, name in enumerate(Final._fields):
        cells = []
        for method, values in numbers.items():
            published = PUBLISHED[method][k] if method in PUBLISHED else np.nan
            cells += [shown(values[:, k]), "-" if np.isnan(published) else f"{published:g}"]
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
    columns = sorted({seed for some in seeds.values() for seed in some})
    lines += ["", "| van Rossum by seed | " + " | ".join(map(str, columns)) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for method, values in numbers.items():
        by_seed = dict(zip(seeds[method], values[:, 0], strict=True))
        lines.append(
            f"| {method} | " + " | ".join(f"{by_seed[s]:.4f}" if s in by_seed else "-" for s in columns) + " |"
        )
    lines += ["", "| seconds per epoch (median), peak memory | |", "|---|---|"]
    for method, group in runs.items():
        seconds = np.median([run.summary["seconds_per_epoch"] for run in group])
        memory = max(run.summary["peak_memory_mib"] for run in group)
        lines.append(f"| {method} | {seconds:.4f} s, {memory:.0f} MiB |")
    return "\n".join(lines)


def reference_table() -> str:
    """The published code rerun with seed 17: means over the last 100 epochs."""
    lines = ["| published code, rerun, seed 17 | van Rossum | L2 | van Rossum, swapped |", "|---|---|---|---|"]
    for variant in ("published", "adjoint"):
        for method, curves in matching_analysis.published_curves(variant).items():
            cells = [f"{curves[k][-100:].mean():.4g}" for k in ("van_rossum", "l2", "van_rossum_other")]
            lines.append(f"| {method}, update {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures(runs: dict[str, list[RunRecord]], folder: Path) -> None:
    """The target with outputs before and after, loss curves, and distributions of the hidden layer."""

    def save(name: str, figure: Figure) -> None:
        figure.savefig(folder / f"stm_{name}.png")
        print(folder / f"stm_{name}.png")

    panels: dict[str, np.ndarray] = {}
    for method, (run, *_) in runs.items():
        panels.setdefault("target", run.state("target")[:, 0])
        first, last = matching_analysis.epochs_recorded(run)[0], matching_analysis.epochs_recorded(run)[-1]
        if "output before learning" not in panels:
            panels["output before learning"] = matching_analysis.spikes(run, "out", first)[:, 0, 0]
        panels[method] = matching_analysis.spikes(run, "out", last)[:, 0, 0]
    dt = matching_analysis.dt(next(iter(runs.values()))[0])
    save("output", figures_matching.rasters(panels, dt))
    curves = {method: [run.metrics for run in group] for method, group in runs.items()}
    quantities = {"van_rossum": "van Rossum distance", "l2": "$L_2$ distance"}
    quantities |= {"van_rossum_other": "van Rossum, spikes swapped"}
    save("losses", figures_matching.losses(curves, quantities, reference=matching_analysis.published_curves()))
    save("distributions", hidden_layer(runs))


def hidden_layer(runs: Mapping[str, Sequence[RunRecord]]) -> Figure:
    """Rates, intervals and their CV in the hidden layer after learning."""
    found = {method: matching_analysis.trains(group, "hid_0", -1) for method, group in runs.items()}
    return figures_matching.distributions(
        {
            "hidden rate (Hz)": {method: t.rates for method, t in found.items()},
            "interval (ms)": {method: t.intervals * 1e3 for method, t in found.items()},
            "CV of intervals": {method: t.cvs for method, t in found.items()},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default=matching_analysis.where())
    parser.add_argument("--dataset", default="oxford")
    parser.add_argument("--figures", type=Path, default=REPO / "docs" / "figures")
    args = parser.parse_args()
    try:
        runs = matching_analysis.runs_by_method(args.runs, args.dataset)
    except (UserError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    args.figures.mkdir(parents=True, exist_ok=True)
    figures(runs, args.figures)
    print(tables(runs), reference_table(), sep="\n\n")


if __name__ == "__main__":
    main()
