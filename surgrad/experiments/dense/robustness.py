"""How much surrogate-gradient learning depends on the surrogate: its shape, its slope, and what it flows through.

Zenke & Vogels, The remarkable robustness of surrogate gradient learning for instilling complex function in spiking
neural networks, Neural Comput 33:899 (2021). The sweeps are the configurations configs/dense/robustness*.yaml; this
module turns their runs into rows (`surgrad.analysis.rows`), and rows into what tables and figures show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgrad.analysis.rows import (
    Point,
    Row,
    best_setting,
    chosen,
    column,
    config_name,
    curves,
    grouped,
    only_data_set,
    paired_difference,
    rows_of,
    table,
)
from surgrad.runs.intervals import Interval, interval
from surgrad.runs.record import REPO, RunRecord, last_value

PUBLISHED = REPO / "Classification" / "analysis" / "robustness.csv"

#: Surrogates by class, as the paper calls them; those of normalised peak first.
SHAPES = {
    "SuperSpike": "SuperSpike",
    "ScaledSigmoidPrime": "sigmoid'",
    "Esser": "Esser",
    "AsymptoticSuperSpike": "asymptotic SuperSpike",
    "SigmoidPrime": "asymptotic sigmoid'",
}
NORMALIZED = ("SuperSpike", "sigmoid'", "Esser")
#: What every sweep varies.
VARIED = {
    "robustness": ("surrogate", "beta"),
    "robustness_lr": ("surrogate", "beta", "lr"),
    "robustness_reset": ("surrogate", "beta", "path"),
    "robustness_depth": ("surrogate", "beta", "nb_layers"),
    "robustness_sparse": ("upper_bound",),
    "robustness_digits": ("surrogate", "beta"),
}
#: What gradients flow through beside feed-forward connections, by (recurrent, diff_reset).
PATHS = {
    (False, False): "neither",
    (False, True): "reset",
    (True, False): "recurrence",
    (True, True): "both",
}


def rows(run: RunRecord) -> list[Row]:
    """The one row of a run: what the sweeps vary and what came of it; scores are those of the best validation epoch."""
    target = str(run.get("surrogate._target_")).rpartition(".")[2]
    row = {
        "sweep": config_name(run),
        "dataset": run.get("dataset.name"),
        "surrogate": SHAPES.get(target, target),
        "beta": float(run.get("surrogate.beta", "nan")),
        "lr": float(run.get("lr")),
        "path": PATHS[bool(run.get("recurrent")), bool(run.get("neuron.diff_reset"))],
        "nb_layers": len(run.get("hidden")),
        "upper_bound": float(run.get("regularizers.upper_bound.threshold", "nan")),
        "seed": int(run.get("seed")),
        "valid_acc": run.summary["valid_acc_best_valid"],
        "test_acc": run.summary["test_acc_best_valid"],
        "train_acc": last_value(run, "train_acc"),
        "spikes": run.summary["test_spikes_per_sample"],
        "chance": 1 / run.summary["nb_classes"],
    }
    return [row]


def load(where: str | Path, dataset: str | None = None) -> tuple[list[Row], str]:
    """Rows of all finished runs of the sweeps below a folder, else those published; and which of the two they are.

    Args:
        where: folder.
        dataset: data set, by default for each sweep the one that most of its runs used.
    """
    found, source = rows_of(where, VARIED, rows, PUBLISHED)
    if dataset is not None:
        return only_data_set(found, dataset), source
    return [row for group in grouped(found, "sweep").values() for row in only_data_set(group)], source


def by_slope(rows: Sequence[Row], sweep: str = "robustness") -> dict[str, dict[float, Point]]:
    """Test accuracy against beta, for each surrogate."""
    return curves(chosen(rows, sweep=sweep), "surrogate", "beta", "test_acc")


@dataclass(frozen=True)
class Tuned:
    """A surrogate at the slope with the highest validation accuracy.

    Args:
        beta: that slope.
        rows: its rows, one per seed.
    """

    beta: float
    rows: Sequence[Row]

    @property
    def accuracy(self) -> Interval:
        """Test accuracy."""
        return interval(column(self.rows, "test_acc"))


def tuned(rows: Sequence[Row], sweep: str = "robustness") -> dict[str, Tuned]:
    """Each surrogate at its own best slope, chosen on the validation set."""
    found = {}
    for (name,), group in grouped(chosen(rows, sweep=sweep), "surrogate").items():
        best = best_setting(group, ["beta"])
        found[name] = Tuned(best[0]["beta"], best)
    return found


def spread_of_shapes(rows: Sequence[Row], sweep: str = "robustness") -> float:
    """Largest difference of mean test accuracy between normalised shapes, each at its tuned slope."""
    means = [best.accuracy.mean for name, best in tuned(rows, sweep).items() if name in NORMALIZED]
    return max(means) - min(means)


def by_learning_rate(rows: Sequence[Row]) -> dict[str, dict[float, dict[float, Point]]]:
    """Validation accuracy against the learning rate, for each surrogate and slope."""
    groups = grouped(chosen(rows, sweep="robustness_lr"), "surrogate")
    return {name: curves(group, "beta", "lr", "valid_acc") for (name,), group in groups.items()}


def _labelled(rows: Sequence[Row], sweep: str) -> list[Row]:
    """Rows of a sweep whose curves are labelled by surrogate and slope."""
    return [row | {"label": f"{row['surrogate']}, beta = {row['beta']:g}"} for row in chosen(rows, sweep=sweep)]


def by_path(rows: Sequence[Row]) -> dict[str, dict[str, Point]]:
    """Test accuracy by what else gradients flow through, for each surrogate and slope."""
    found = curves(_labelled(rows, "robustness_reset"), "label", "path", "test_acc")
    return {label: {path: by[path] for path in PATHS.values() if path in by} for label, by in found.items()}


def cost_of_paths(rows: Sequence[Row]) -> dict[tuple[str, str], Interval]:
    """What each path changes in test accuracy against the network that has neither, paired by seed."""
    found: dict[tuple[str, str], Interval] = {}
    for (label,), group in grouped(_labelled(rows, "robustness_reset"), "label").items():
        pairs = {path: (chosen(group, path=path), chosen(group, path="neither")) for path in list(PATHS.values())[1:]}
        found |= {(label, path): paired_difference(*pair, "test_acc") for path, pair in pairs.items() if all(pair)}
    return found


def by_depth(rows: Sequence[Row]) -> dict[str, dict[int, Point]]:
    """Test accuracy against the number of hidden layers, for each surrogate and slope."""
    return curves(_labelled(rows, "robustness_depth"), "label", "nb_layers", "test_acc")


@dataclass(frozen=True)
class Sparse:
    """Networks held below one bound of activity.

    Args:
        bound: spikes per neuron and sample.
        spikes: of all hidden neurons per sample.
        accuracy: on the test set.
    """

    bound: float
    spikes: Point
    accuracy: Point


def by_spikes(rows: Sequence[Row]) -> list[Sparse]:
    """Spikes of all hidden neurons per test sample and test accuracy, for each bound, from many to few."""
    found = []
    for (bound,), group in grouped(chosen(rows, sweep="robustness_sparse"), "upper_bound").items():
        spikes, accuracy = column(group, "spikes"), column(group, "test_acc")
        found.append(Sparse(bound, (spikes, interval(spikes)), (accuracy, interval(accuracy))))
    return sorted(found, key=lambda sparse: -sparse.spikes[1].mean)


def fewest_spikes(rows: Sequence[Row], loss: float = 0.05) -> float:
    """Spikes per sample of the sparsest networks within ``loss`` of the highest mean test accuracy of that sweep."""
    found = by_spikes(rows)
    best = max(sparse.accuracy[1].mean for sparse in found)
    return min(sparse.spikes[1].mean for sparse in found if sparse.accuracy[1].mean >= best - loss)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: each surrogate at its tuned slope, and all settings of the sweeps that there are."""
    scores = {"validation": "valid_acc", "test": "test_acc", "training, last": "train_acc", "spikes": "spikes"}
    sections = []
    for sweep in ("robustness", "robustness_digits"):
        if chosen(rows, sweep=sweep):
            best = {(name, f"beta = {one.beta:g}"): one.rows for name, one in tuned(rows, sweep).items()}
            sections += [
                f"**{sweep}**, each surrogate at its tuned slope",
                "",
                table(best, scores, "surrogate"),
                "",
            ]
            spread = spread_of_shapes(rows, sweep)
            sections += [f"Largest difference between shapes of normalised peak: {spread:.3f}", ""]
    for sweep, keys in VARIED.items():
        if chosen(rows, sweep=sweep):
            groups = grouped(chosen(rows, sweep=sweep), *keys)
            sections += [f"**{sweep}**", "", table(groups, scores, ", ".join(keys)), ""]
    if chosen(rows, sweep="robustness_sparse"):
        sections += [f"Within 5 points of the best of them down to {fewest_spikes(rows):.0f} spikes per sample", ""]
    costs = [f"- {label}, through {path}: {cost}" for (label, path), cost in cost_of_paths(rows).items()]
    return "\n".join([*sections, *(["Change of test accuracy, paired by seed:", "", *costs] if costs else [])])
