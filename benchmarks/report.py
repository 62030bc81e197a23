"""Tables and figures from the lines of the benchmark commands: python3 -m benchmarks.report FILES --figures FOLDER"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.command import OURS

NAMES = {
    "linear_lif": "A linear + LIF",
    "lif_scan": "B LIF scan",
    "recurrent": "C recurrent",
    "convsnn_step": "D ConvSNN step",
    "spike_train_matching": "E matching epoch",
}
COLOURS = {
    OURS: "#c1272d",
    "floor": "black",
    "torch_loop": "#1f77b4",
    "torch_explicit": "#17becf",
    "spyx": "#2ca02c",
    "norse": "#9467bd",
    "snntorch": "#8c564b",
    "spikingjelly": "#e377c2",
    "sinabs": "#7f7f7f",
}


def case(line: dict) -> str:
    """What was computed, in words."""
    parts = [NAMES[line["item"]]]
    if line["item"] in ("linear_lif",):
        parts.append(f"N={line['neurons']}")
    if line["item"] == "convsnn_step":
        parts.append(f"{'stochastic' if line['stochastic'] else 'deterministic'}, batch {line['batch']}")
    if line["item"] == "spike_train_matching":
        parts.append(f"{line['batch']} trial{'s' if line['batch'] > 1 else ''}")
    return ", ".join(parts)


def table(lines: list[dict]) -> str:
    """A Markdown table of one item, a row per framework and case."""
    rows = [
        "| | framework | median s | best s | CPU s | x ours | x floor | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if "skipped" in line:
            rows.append(f"| {case(line)} | {line['framework']} | {line['skipped']} | | | | | |")
            continue
        values = [f"{line[k]:.3g}" for k in ("median_s", "best_s", "cpu_s")]
        values += [
            f"{line.get('ratio_to_ours', math.nan):.2f}",
            f"{line['ratio_to_floor']:.1f}",
            f"{line['peak_mib']:.0f}",
        ]
        rows.append(f"| {case(line)} | {line['framework']} | {' | '.join(values)} |")
    return "\n".join(rows)


def step_figure(lines: list[dict], path: Path) -> None:
    """Time of every framework relative to ours, one row per case."""
    cases: dict[str, dict[str, float]] = {}
    for line in lines:
        if "ratio_to_ours" in line:
            row = cases.setdefault(case(line), {})
            row[line["framework"]] = line["ratio_to_ours"]
            if line["framework"] == OURS:
                row["floor"] = line["floor_s"] / line["median_s"]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(cases) + 1.4), layout="constrained")
    for y, row in enumerate(reversed(cases.values())):
        for name, ratio in row.items():
            marker = "|" if name == "floor" else "D" if name == OURS else "o"
            size, order = (12, 4) if name == "floor" else (7, 3)
            axes.plot(ratio, y, marker, color=COLOURS.get(name, "orange"), markersize=size, zorder=order)
    axes.set_yticks(range(len(cases)), list(reversed(cases)))
    axes.set_xscale("log")
    axes.axvline(1, color=COLOURS[OURS], linewidth=1, zorder=0)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel("time of one step, relative to surgrad")
    shown = [name for name in COLOURS if any(name in row for row in cases.values())]
    labels = {"floor": "floor (dense)"}
    handles = [
        plt.Line2D([], [], color=COLOURS[n], marker="|" if n == "floor" else "D" if n == OURS else "o", linestyle="")
        for n in shown
    ]
    figure.legend(handles, [labels.get(n, n) for n in shown], loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Least-squares slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def scaling_figure(lines: list[dict], path: Path) -> dict[str, float]:
    """Time of ours over T, batch and N, log-log, and their slopes."""

    def chosen(keep: Callable[[dict], bool], axis: str) -> tuple[list[float], list[float]]:
        points = {line[axis]: line["median_s"] for line in lines if line["framework"] == OURS and keep(line)}
        return sorted(points), [points[size] for size in sorted(points)]

    curves = {
        "ConvSNN step over T (batch 64)": chosen(lambda d: d["item"] == "convsnn_step" and d["batch"] == 64, "steps"),
        "ConvSNN step over batch (T=350)": chosen(lambda d: d["item"] == "convsnn_step" and d["steps"] == 350, "batch"),
        "LIF scan over N (batch 16)": chosen(lambda d: d["item"] == "lif_scan" and d["batch"] == 16, "neurons"),
        "LIF scan over batch (N=256)": chosen(lambda d: d["item"] == "lif_scan" and d["neurons"] == 256, "batch"),
        "linear + LIF over N (batch 16)": chosen(lambda d: d["item"] == "linear_lif", "neurons"),
    }
    figure, axes = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    slopes = {}
    for name, (sizes, seconds) in curves.items():
        if len(sizes) < 3:
            continue
        slopes[name] = slope(sizes, seconds)
        axes.loglog(sizes, seconds, "o-", label=f"{name}: {slopes[name]:.2f} / {slope(sizes[-3:], seconds[-3:]):.2f}")
    axes.set_xlabel("size")
    axes.set_ylabel("s per step")
    axes.grid(which="both", alpha=0.25)
    figure.legend(title="log-log slope over all / the largest three", fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return slopes


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("files", nargs="+", type=Path, help="JSON lines of comparisons")
    p.add_argument("--scaling", nargs="*", type=Path, default=[], help="JSON lines over several sizes")
    p.add_argument("--figures", type=Path, help="folder for performance_step.png and performance_scaling.png")
    args = p.parse_args()

    def read(files: list[Path]) -> list[dict]:
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    lines = sorted(read(args.files), key=lambda line: (list(NAMES).index(line["item"]), line.get("neurons", 0)))
    for item in NAMES:
        chosen = [line for line in lines if line["item"] == item]
        if chosen:
            print(f"\n{table(chosen)}")
    if args.figures:
        args.figures.mkdir(parents=True, exist_ok=True)
        step_figure(lines, args.figures / "performance_step.png")
        if args.scaling:
            slopes = scaling_figure(read(args.scaling), args.figures / "performance_scaling.png")
            print("\n" + "\n".join(f"{name}: {value:.2f}" for name, value in slopes.items()))


if __name__ == "__main__":
    main()
