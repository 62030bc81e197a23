"""Teaches a spiking network to paint a picture in spikes; configs/spike_train_matching holds the keys.

python3 Spike_train_matching/run_image_task_1hid.py --config-name=config
python3 Spike_train_matching/run_image_task_1hid.py method=stochasticsuperspike dataset=neuron seed=3
python3 Spike_train_matching/run_image_task_1hid.py -m method=superspike,multilayerspiker seed=1,2,3
"""

import logging
import time

from surgrad.config.common import resolve_device
from surgrad.config.entry import entry
from surgrad.experiments.spike_train_matching.config import SpikeTrainMatchingConfig
from surgrad.experiments.spike_train_matching.recording import Recorder
from surgrad.experiments.spike_train_matching.task import Weights
from surgrad.experiments.spike_train_matching.training import Diverged, train
from surgrad.runs.log import progress

log = logging.getLogger(__name__)


@entry(
    "spike_train_matching",
    SpikeTrainMatchingConfig,
    run_name="${method.name}/dataset=${dataset.name}/seed=${seed}+lr_h=${dataset_method.lr_h}+lr_o=${dataset_method.lr_o}",
)
def main(cfg: SpikeTrainMatchingConfig, run) -> float:
    device = resolve_device(cfg.device)
    task, weights, training = cfg.build(device)
    log.info("%d pairs, %d steps, %d outputs", task.nb_pairs, task.nb_steps, task.target.shape[-1])
    recorder = Recorder(run, task, cfg)

    first = 0
    saved = run.load_checkpoint()
    if saved is not None:
        first = saved["epoch"] + 1
        weights = Weights(saved["w_hidden"].to(device), saved["w_output"].to(device))
        log.info("resuming after epoch %d", saved["epoch"])
    run.rewind(first - 1)
    recorder.constants()

    started, saved_at = time.monotonic(), time.monotonic()
    try:
        for epoch in progress(train(task, weights, training, range(first, cfg.nb_epochs)), total=cfg.nb_epochs - first):
            weights = epoch.weights
            recorder.row(epoch, time.monotonic() - started)
            started = time.monotonic()
            if recorder.is_due(epoch.number):
                recorder.snapshot(epoch)
                log.info("epoch %d: van Rossum %.4f", epoch.number, epoch.van_rossum.mean())
            if recorder.is_due(epoch.number) or time.monotonic() - saved_at > cfg.checkpoint_seconds:
                run.checkpoint({"epoch": epoch.number, "w_hidden": weights.hidden, "w_output": weights.output})
                saved_at = time.monotonic()
    except Diverged as error:
        run.checkpoint({"epoch": error.epoch, "w_hidden": error.weights.hidden, "w_output": error.weights.output})
        raise
    van_rossum = recorder.summarize()
    log.info("van Rossum %.4f over the last %d epochs", van_rossum, run.summary.get("averaged_epochs", 0))
    return van_rossum


if __name__ == "__main__":
    main()
