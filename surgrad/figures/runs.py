"""Figures of runs beside each other, in the suite's style."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from surgrad.figures.plots import STYLE, panels, style

_IN_LEGEND = 16  # more names than this are not read


def curves(runs: Sequence[Mapping[str, np.ndarray]], columns: Sequence[str], labels: Sequence[str]) -> Figure:
    """Columns of metrics.csv over epochs: one panel per column, one line per run.

    Args:
        runs: for each run its columns, "epoch" among them.
        columns: the columns to draw.
        labels: what to call the runs.
    """
    cycle = STYLE["axes.prop_cycle"].by_key()["color"]
    colors = cycle if len(runs) <= len(cycle) else mpl.colormaps["viridis"](np.linspace(0, 0.95, len(runs)))
    with style():
        figure, ((*axes,),) = panels(1, len(columns), (0.6 + 2.4 * len(columns), 2.2))
        for ax, column in zip(axes, columns, strict=True):
            for run, color, label in zip(runs, colors, labels, strict=False):
                if column in run:
                    there = ~np.isnan(run[column].astype(float))
                    marker = "." if there.sum() < 2 else None
                    ax.plot(run["epoch"][there], run[column][there], color=color, label=label, marker=marker)
            ax.set(xlabel="epoch", ylabel=column)
        if len(runs) <= _IN_LEGEND:
            handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
            figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=max(1, len(columns)))
    return figure
