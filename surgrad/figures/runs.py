"""Figures of runs beside each other, in the suite's style."""

from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from surgrad.figures.plots import STYLE, legend_outside, panels, style

_IN_LEGEND = 16  # more names than this are not read


def curves(runs: Sequence[Mapping[str, np.ndarray]], columns: Sequence[str], labels: Sequence[str]) -> Figure:
    """Columns of metrics.csv over epochs: one panel per column, one line per run.

    Args:
        runs: for each run its columns, "epoch" among them.
        columns: the columns to draw.
        labels: what to call the runs; those of one name, such as the seeds of a setting, have one colour.
    """
    numbers = Counter(labels)
    cycle = STYLE["axes.prop_cycle"].by_key()["color"]
    many = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(numbers)))
    colors = dict(zip(numbers, cycle if len(numbers) <= len(cycle) else many, strict=False))
    named = {label: f"{label} ({n} runs)" if n > 1 else label for label, n in numbers.items()}
    with style():
        figure, ((*axes,),) = panels(1, len(columns), (0.6 + 2.4 * len(columns), 2.2))
        for ax, column in zip(axes, columns, strict=True):
            for run, label in zip(runs, labels, strict=True):
                if column in run:
                    there = ~np.isnan(run[column].astype(float))
                    marker = "." if there.sum() < 2 else None
                    ax.plot(
                        run["epoch"][there], run[column][there], color=colors[label], label=named[label], marker=marker
                    )
            ax.set(xlabel="epoch", ylabel=column)
        if len(numbers) <= _IN_LEGEND:
            legend_outside(figure, axes)
    return figure
