"""Teaches a spiking network to fire at given times, online: SuperSpike; keys: configs/superspike.

python3 Spike_train_matching/run_superspike.py
python3 Spike_train_matching/run_superspike.py dt=0.1e-3 nb_epochs=300
python3 Spike_train_matching/run_superspike.py -m feedback=symmetric,random,uniform seed=0,1,2,3,4
"""

import logging
import time

import matplotlib.pyplot as plt
import torch

from surgrad.config.entry import entry
from surgrad.experiments.superspike.config import SuperSpikeConfig
from surgrad.runs.log import progress

log = logging.getLogger(__name__)


@entry(
    "superspike", SuperSpikeConfig, run_name="superspike/${feedback}/seed=${seed}+lr_h=${lr_h}+lr_o=${lr_o}+dt=${dt}"
)
def main(cfg: SuperSpikeConfig, run) -> float:
    x, target = cfg.events()
    network, first = cfg.network(), 0
    layers = {"hidden": network.hidden, "output": network.output}
    saved = run.load_checkpoint()
    if saved is not None:
        first, network.step = saved["epoch"] + 1, saved["step"]
        for name, layer in layers.items():
            for key in ("weight", "g", "v"):
                getattr(layer, key).copy_(saved[f"{name}_{key}"])
    run.rewind(first - 1)
    silent, _, _ = cfg.network().run(torch.zeros_like(x), target, learning=False)
    run.summary.update(van_rossum_silent=silent * cfg.distance_scale, state_mib=network.nb_bytes / 2**20)

    losses, spikes = [], (None, None)
    for epoch in progress(range(first, cfg.nb_epochs), unit="trial"):
        started = time.perf_counter()
        network.clear()
        loss, *spikes = network.run(x, target, record=True)
        losses.append(loss * cfg.distance_scale)
        rates = {
            f"firing_rate-{name}": float(s.float().mean()) / cfg.dt for name, s in zip(layers, spikes, strict=True)
        }
        seconds = round(time.perf_counter() - started, 4)
        run.log({"epoch": epoch, "van_rossum": losses[-1], **rates, "seconds": seconds})
        if epoch % cfg.logging_freq == 0 or epoch == cfg.nb_epochs - 1:
            log.info("trial %d: van Rossum %.4f (silence: %.2f)", epoch, losses[-1], silent * cfg.distance_scale)
            state = {f"{n}_{key}": getattr(y, key) for n, y in layers.items() for key in ("weight", "g", "v")}
            run.checkpoint({"epoch": epoch, "step": network.step, **state})
    if losses:
        final = sum(losses[-10:]) / len(losses[-10:])
        run.summary.update(van_rossum=final)
        for name, recorded in (("target", target), ("spikes-output", spikes[1]), ("spikes-hidden", spikes[0])):
            run.state(name, recorded, dt=cfg.dt)
        if cfg.plot:
            run.figure("rasters", rasters(cfg, target, spikes[1]))
    return run.summary.get("van_rossum")


def rasters(cfg: SuperSpikeConfig, target, output):
    """Target above what the network does."""
    figure, axes = plt.subplots(2, 1, figsize=(6, 6), sharex=True, sharey=True, layout="constrained")
    for axis, spikes, title in zip(axes, (target, output), ("target", "output"), strict=True):
        steps, units = spikes.nonzero(as_tuple=True)
        axis.scatter(steps * cfg.dt, units, s=0.4, c="k", linewidths=0)
        axis.set(title=title, ylabel="unit")
    axes[1].set_xlabel("time (s)")
    return figure


if __name__ == "__main__":
    main()
