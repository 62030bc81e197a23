"""SuperSpike in a run folder, trial by trial: an undisturbed run and one that was killed leave the same."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from surgrad.errors import known
from surgrad.experiments.superspike.config import SuperSpikeConfig
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.resume import Trainee

FINAL_TRIALS = 10  # the final distance is the mean over this many
_KEPT = ("weight", "g", "v")  # what a layer keeps from trial to trial


class Trials(Trainee):
    """Online learning of one target.

    Args:
        cfg: configuration.
        run: run folder.
    """

    shown: ClassVar[tuple[str, ...]] = ("van_rossum",)
    lr_key = "lr_h and lr_o"

    def __init__(self, cfg: SuperSpikeConfig, run: Run):
        self.cfg, self.run, self.network = cfg, run, cfg.network()
        self.x, self.target = cfg.events()
        self.layers = {"hidden": self.network.hidden, "output": self.network.output}
        self._spikes: dict[str, Tensor] = {}
        run.summary["state_mib"] = self.network.nb_bytes / 2**20

    def silence(self) -> float:
        """The distance of a network that does not spike."""
        loss, _, _ = self.cfg.network().run(torch.zeros_like(self.x), self.target, learning=False)
        return loss * self.cfg.distance_scale

    def epoch(self, number: int, bar: "tqdm[Any]") -> Mapping[str, Any]:
        """One trial, from silence."""
        self.network.clear()
        loss, *spikes = self.network.run(self.x, self.target, record=True)
        self._spikes = {name: known("spikes", s) for name, s in zip(self.layers, spikes, strict=True)}
        rates = {f"firing_rate-{name}": float(s.float().mean()) / self.cfg.dt for name, s in self._spikes.items()}
        bar.update()
        return {"van_rossum": loss * self.cfg.distance_scale, **rates}

    def observe(self, number: int) -> Mapping[str, Any]:
        """Spikes of the last trial: part of the result, therefore written before its checkpoint."""
        if number == self.cfg.nb_epochs - 1:
            for name, spikes in {"target": self.target, **self._spikes}.items():
                self.run.state(name if name == "target" else f"spikes-{name}", spikes, dt=self.cfg.dt)
        return {}

    def state(self) -> dict[str, Any]:
        """Weights and sizes of updates; all else is cleared before a trial."""
        kept = {f"{name}_{key}": getattr(layer, key) for name, layer in self.layers.items() for key in _KEPT}
        return {"step": self.network.step, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.network.step = state["step"]
        for name, layer in self.layers.items():
            for key in _KEPT:
                getattr(layer, key).copy_(state[f"{name}_{key}"])

    def summarize(self) -> float | None:
        """Final distance into the summary, figure into the run folder; from what the run folder holds of all trials."""
        record = RunRecord(self.run.folder)
        if "van_rossum" not in record.metrics:
            return None
        last = record.metrics["van_rossum"][-FINAL_TRIALS:].tolist()
        self.run.summary["van_rossum"] = sum(last) / len(last)
        if self.cfg.plot:
            self.run.figure("rasters", self._rasters(record))
        return self.run.summary["van_rossum"]

    def _rasters(self, record: RunRecord) -> Figure:
        """Target above what the network does."""
        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, sharey=True)
        for axis, name, title in zip(axes, ("target", "spikes-output"), ("target", "output"), strict=True):
            steps, units = record.state(name).nonzero()
            axis.scatter(steps * self.cfg.dt, units, s=0.4, c="k", linewidths=0)
            axis.set(title=title, ylabel="unit")
        axes[1].set_xlabel("time (s)")
        return figure
