"""What the notebooks of spike-train matching compute from run folders; they only call it and show figures."""

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from surgrad.analysis.rows import by_difference
from surgrad.experiments.spike_train_matching.recording import FINAL_EPOCHS
from surgrad.runs.record import REPO, RunRecord, load_runs
from surgrad.training.statistics import cv_of_isi, fano_over_trials, firing_rates, inter_spike_intervals

COMMAND = (
    "python3 Spike_train_matching/run_image_task_1hid.py -m method=superspike,stochasticsuperspike,multilayerspiker"
)
MATCHING_METHODS = ("superspike", "stochasticsuperspike", "multilayerspiker")
PUBLISHED_CURVES = REPO / "tests" / "reference" / "oxford_curves.csv"


def where() -> str:
    """Glob of the run folders: $SURGRAD_MATCHING_RUNS, or all of the suite."""
    return os.environ.get("SURGRAD_MATCHING_RUNS", str(REPO / "Spike_train_matching" / "Runs" / "**"))


def runs_by_method(
    pattern: str | Path | Iterable[str | Path], dataset: str | None = None
) -> dict[str, list[RunRecord]]:
    """Finished runs by method, deterministic first, and by whatever else differs but the seed.

    Args:
        pattern: see `surgrad.runs.record.load_runs`.
        dataset: name of the data set, or None for all of them.

    Raises:
        FileNotFoundError: that names the command which makes such runs.
    """
    try:
        runs = load_runs(pattern)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. Make some with: {COMMAND}") from None
    runs = [run for run in runs if run.status == "done" and dataset in (None, run.get("dataset.name"))]
    if not runs:
        raise FileNotFoundError(f"no finished run of dataset={dataset} matches {pattern}. Make some with: {COMMAND}")
    groups = by_difference(runs, "method.name")[1]
    methods = {name: name.partition(",")[0] for name in groups}
    rank = {method: k for k, method in enumerate(MATCHING_METHODS)}
    return {name: groups[name] for name in sorted(groups, key=lambda name: rank.get(methods[name], len(rank)))}


def published_curves(variant: str = "adjoint") -> dict[str, dict[str, np.ndarray]]:
    """Loss curves of the published code, seed 17: method -> column as in metrics.csv -> values by epoch.

    Args:
        variant: "adjoint" (all methods; the published update computed by its adjoint) or "published" (superspike).
    """
    with PUBLISHED_CURVES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, dict[str, np.ndarray]] = {}
    for column in rows[0]:
        method, found, quantity = column.partition(f"_{variant}_")
        if found:
            values = [float(row[column]) for row in rows if row[column]]
            curves.setdefault(method, {})[quantity] = np.array(values)
    return curves


def epochs_recorded(run: RunRecord) -> list[int]:
    """Epochs whose spikes are in state.h5, ascending."""
    names = {name.split("/")[0] for name in run.states if name.endswith("spikes-out")}
    return sorted(int(name.removeprefix("epoch_")) for name in names)


def spikes(run: RunRecord, layer: str, epoch: int, *, other: bool = False) -> np.ndarray:
    """Recorded spikes (T, trials, pairs, N) of "hid_0" or "out"; `other`: of the swapped evaluation."""
    return run.state(f"epoch_{epoch}/{'other/' if other else ''}spikes-{layer}")


def dt(run: RunRecord) -> float:
    """Time step in s."""
    return float(run.attributes("target")["dt"])


class Trains(NamedTuple):
    """Statistics of single trains: rates (trains,) Hz; intervals (n,) s; CVs (trains,), nan where undefined."""

    rates: np.ndarray
    intervals: np.ndarray
    cvs: np.ndarray


def trains(runs: Sequence[RunRecord], layer: str, which: int) -> Trains:
    """Trains of a layer, pooled over runs, trials and pairs; `which` 0 before and -1 after learning."""
    parts = []
    for run in runs:
        s = spikes(run, layer, epochs_recorded(run)[which])
        s = s.reshape(len(s), -1, s.shape[-1])
        step = dt(run)
        intervals, _ = inter_spike_intervals(s)
        parts.append((firing_rates(s, step).flatten(), intervals * step, cv_of_isi(s).flatten()))
    return Trains(*(np.concatenate([part[k].numpy() for part in parts]) for k in range(3)))


class Final(NamedTuple):
    """Final numbers of one run; nan where they do not apply.

    Losses and rates (Hz) are means over the last 100 epochs; Fano factors over trials in single steps, with the
    variance divided by the number of trials as in the published analysis; CV of hidden intervals, mean over trains
    with at least three spikes.
    """

    van_rossum: float
    l2: float
    van_rossum_other: float
    rate_hidden: float
    rate_output: float
    fano_hidden: float
    fano_output: float
    cv_isi_hidden: float


def final_numbers(run: RunRecord, epochs: int = FINAL_EPOCHS) -> Final:
    """Numbers of a finished run at its end."""
    names = ("van_rossum", "l2", "van_rossum_other", "firing_rate-hid_0", "firing_rate-out")
    numbers = [float(run.metrics[n][-epochs:].mean()) if n in run.metrics else math.nan for n in names]
    last = epochs_recorded(run)[-1:]
    if last:
        numbers += [_fano(spikes(run, layer, last[0])) for layer in ("hid_0", "out")]
        numbers.append(float(np.nanmean(trains([run], "hid_0", -1).cvs)))
    else:
        numbers += [math.nan] * 3
    return Final._make(numbers)


def _fano(s: np.ndarray) -> float:
    nb_trials = s.shape[1]
    if nb_trials < 2:
        return float("nan")
    unbiased = np.stack([fano_over_trials(s[:, :, p], 1).numpy() for p in range(s.shape[2])])
    return float(np.nanmean(unbiased)) * (nb_trials - 1) / nb_trials


#: Published figures, one seed (read off the figures of Gygax & Zenke 2025).
PUBLISHED: Mapping[str, Final] = {
    "superspike": Final(0.117, 20.4, np.nan, 24.0, 269.0, np.nan, np.nan, 1.05),
    "stochasticsuperspike": Final(0.162, 23.5, np.nan, 55.0, 269.0, 0.595, 0.55, 1.45),
}


def table(runs: Mapping[str, Sequence[RunRecord]]) -> str:
    """Final numbers as text: mean and range over runs, one column per method, published figures beside them."""
    lines = [f"{'':18}" + "".join(f"{f'{m} (n={len(r)})':>30}{'published':>11}" for m, r in runs.items())]
    numbers = {method: np.array([final_numbers(run) for run in group]) for method, group in runs.items()}
    for k, name in enumerate(Final._fields):
        cells = ""
        for method, values in numbers.items():
            own = values[:, k]
            text = (
                "-" if np.isnan(own).all() else f"{np.nanmean(own):.3f} ({np.nanmin(own):.3f} to {np.nanmax(own):.3f})"
            )
            reference = PUBLISHED[method][k] if method in PUBLISHED else np.nan
            cells += f"{text:>30}{'-' if np.isnan(reference) else f'{reference:g}':>11}"
        lines.append(f"{name:18}{cells}")
    return "\n".join(lines)
