"""What a run of spike-train matching leaves in its run folder: rows, recorded arrays, figures, final numbers."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from surgrad.experiments.spike_train_matching.task import Activity, Task, Weights
from surgrad.experiments.spike_train_matching.training import Epoch, Learner
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.resume import Trainee
from surgrad.training.statistics import cv_of_isi, defined_mean, fano_over_trials

FINAL_EPOCHS = 100  # losses are noisy from epoch to epoch: final numbers are means over this many
_AXES = "time, trial, pair, neuron"


class Settings(Protocol):
    """The part of the configuration that says what to record."""

    nb_epochs: int
    logging_freq: int
    plot: bool
    save_spk: bool
    save_mem: bool
    save_dw: bool
    save_w: bool
    batch_id: int
    i_neuron_id: int
    h_neuron_id: int
    o_neuron_id: int


class Recorder:
    """Writes epochs into a run folder.

    Args:
        run: an open run folder.
        task: input, target and neurons.
        settings: what is kept, and how often.
    """

    def __init__(self, run: Run, task: Task, settings: Settings):
        self.run, self.task, self.settings = run, task, settings

    def is_due(self, epoch: int) -> bool:
        """Whether arrays and figures of this epoch are kept: the first, every logging_freq-th, and the last."""
        last = self.settings.nb_epochs - 1
        return epoch in (0, last) or (epoch + 1) % self.settings.logging_freq == 0

    def constants(self) -> None:
        """Input and target, which do not change."""
        dt = self.task.neurons.dt
        self.run.state("input", _bytes(self.task.x), axes="time, pair, neuron", dt=dt)
        self.run.state("target", _bytes(self.task.target), axes="time, pair, neuron", dt=dt)
        self.run.summary["firing_rate-target"] = self.task.target.mean().item() / dt

    def row(self, epoch: Epoch) -> dict[str, float]:
        """The row of metrics.csv."""
        row = {
            "van_rossum": epoch.van_rossum.mean().item(),
            "l2": epoch.l2.mean().item(),
        }
        if epoch.van_rossum_other is not None and epoch.l2_other is not None:
            row |= {"van_rossum_other": epoch.van_rossum_other.mean().item(), "l2_other": epoch.l2_other.mean().item()}
        for name, spikes in _layers(epoch.activity).items():
            row[f"firing_rate-{name}"] = spikes.mean().item() / self.task.neurons.dt
        return row

    def variability(self, activity: Activity) -> dict[str, float]:
        """Fano factor over trials in single steps (unbiased variance), and CV of the inter-spike intervals."""
        found = {}
        for name, spikes in _layers(activity).items():
            trains = spikes.flatten(1, 2)
            found[f"cv_isi-{name}"] = defined_mean(cv_of_isi(trains)).value
            if spikes.shape[1] > 1:
                fano = torch.stack([fano_over_trials(spikes[:, :, p], 1) for p in range(spikes.shape[2])])
                found[f"fano-{name}"] = defined_mean(fano).value
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def snapshot(self, epoch: Epoch) -> None:
        """Arrays of an epoch into state.h5, and its output beside the target as a figure."""
        settings, group = self.settings, f"epoch_{epoch.number}"
        activities = {group: epoch.activity} | ({f"{group}/other": epoch.other} if epoch.other else {})
        for folder, activity in activities.items():
            if settings.save_spk:
                self.run.state(f"{folder}/spikes-hid_0", _bytes(activity.spikes_hidden), axes=_AXES)
                self.run.state(f"{folder}/spikes-out", _bytes(activity.spikes_output), axes=_AXES)
            if settings.save_mem:
                self.run.state(f"{folder}/membrane-hid_0", activity.membrane_hidden, units="threshold", axes=_AXES)
                self.run.state(f"{folder}/membrane-out", activity.membrane_output, units="threshold", axes=_AXES)
        for save, name, weights in ((settings.save_w, "w", epoch.weights), (settings.save_dw, "dw", epoch.update)):
            if save:
                self.run.state(f"{group}/{name}-hid_0", weights.hidden, axes="input, hidden")
                self.run.state(f"{group}/{name}-out", weights.output, axes="hidden, output")
        if settings.plot:
            self._figures(epoch)

    def _figures(self, epoch: Epoch) -> None:
        from surgrad.experiments.spike_train_matching import (
            figures as figures_matching,  # only here: it takes a second, and runs without figures do without
        )

        pair, dt = self.settings.batch_id, self.task.neurons.dt
        panels = {"target": _array(self.task.target[:, pair])}
        panels[f"output, epoch {epoch.number}"] = _array(epoch.activity.spikes_output[:, 0, pair])
        if epoch.activity.spikes_output.shape[1] > 1:
            panels["mean over trials"] = _array(epoch.activity.spikes_output[:, :, pair].mean(1))
        if epoch.other is not None:
            panels["spikes swapped"] = _array(epoch.other.spikes_output[:, 0, pair])
        self.run.figure(f"output_{epoch.number}", figures_matching.rasters(panels, dt))
        if self.settings.save_mem:
            traces = self._traces(epoch.activity, pair)
            self.run.figure(
                f"membranes_{epoch.number}", figures_matching.membranes(traces, dt, self.task.neurons.theta)
            )

    def _traces(self, activity: Activity, pair: int) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Membranes and spikes of one neuron per layer, of the first trial; the input by its PSP."""
        i, h, o = (getattr(self.settings, f"{layer}_neuron_id") for layer in "iho")
        chosen = {
            f"input {i} (PSP)": (self.task.psp_input[:, pair], self.task.x[:, pair], i),
            f"hidden {h}": (activity.membrane_hidden[:, 0, pair], activity.spikes_hidden[:, 0, pair], h),
            f"output {o}": (activity.membrane_output[:, 0, pair], activity.spikes_output[:, 0, pair], o),
        }
        return {
            name: (_array(u[:, min(n, u.shape[1] - 1)]), _array(s[:, min(n, u.shape[1] - 1)]))
            for name, (u, s, n) in chosen.items()
        }

    def summarize(self) -> float:
        """Final numbers into the summary: means over the last epochs; returns the van Rossum distance."""
        metrics = RunRecord(self.run.folder).metrics
        if "van_rossum" not in metrics:
            return math.nan
        for name, values in metrics.items():
            if name in ("epoch", "seconds"):
                continue
            defined = values[np.isfinite(values)]
            if len(defined):
                snapshot = name.startswith(("fano", "cv_isi"))
                self.run.summary[name] = float(defined[-1] if snapshot else values[-FINAL_EPOCHS:].mean())
        self.run.summary["epochs"] = len(metrics["epoch"])
        self.run.summary["averaged_epochs"] = min(FINAL_EPOCHS, len(metrics["epoch"]))
        self.run.summary["seconds_per_epoch"] = float(np.median(metrics["seconds"]))
        if self.settings.plot:
            from surgrad.experiments.spike_train_matching import figures as figures_matching

            name = RunRecord(self.run.folder).get("method.name", "")
            labels = {"van_rossum": "van Rossum distance", "l2": "$L_2$ distance"}
            labels |= {"van_rossum_other": "van Rossum, spikes swapped"} if "van_rossum_other" in metrics else {}
            self.run.figure("losses", figures_matching.losses({name: [metrics]}, labels))
        return self.run.summary["van_rossum"]


class Matching(Trainee):
    """Spike-train matching in a run folder.

    Args:
        learner: learns.
        recorder: writes the run folder.
    """

    shown: ClassVar[tuple[str, ...]] = ("van_rossum", "van_rossum_other")
    lr_key = "dataset_method.lr_h and dataset_method.lr_o"
    intact: ClassVar[bool] = True

    def __init__(self, learner: Learner, recorder: Recorder):
        self.learner, self.recorder = learner, recorder

    def epoch(self, number: int, bar: "tqdm[Any]") -> Mapping[str, Any]:
        """One presentation of every pair."""
        self._latest = self.learner(number)
        bar.update()
        return self.recorder.row(self._latest)

    def observe(self, number: int) -> Mapping[str, float]:
        """Variability, arrays and figures of an epoch that is kept."""
        if not self.due(number):
            return {}
        self.recorder.snapshot(self._latest)
        return self.recorder.variability(self._latest.activity)

    def due(self, number: int) -> bool:
        """With arrays there is a checkpoint."""
        return self.recorder.is_due(number)

    def state(self) -> dict[str, Any]:
        """The weights."""
        return {"w_hidden": self.learner.weights.hidden, "w_output": self.learner.weights.output}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        here = self.learner.weights
        for name, old in zip(("w_hidden", "w_output"), here, strict=True):
            if state[name].shape != old.shape:
                raise ValueError(f"{name} {tuple(state[name].shape)} there, {tuple(old.shape)} here")
        self.learner.go_on_from(Weights(state["w_hidden"].to(here.hidden), state["w_output"].to(here.output)))


def _layers(activity: Activity) -> dict[str, Tensor]:
    return {"hid_0": activity.spikes_hidden, "out": activity.spikes_output}


def _bytes(spikes: Tensor) -> Tensor:
    return spikes.to(torch.uint8).cpu()


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
