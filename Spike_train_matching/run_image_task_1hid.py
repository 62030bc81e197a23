"""Teaches a spiking network to paint a picture in spikes; configs/spike_train_matching holds the keys.

python3 Spike_train_matching/run_image_task_1hid.py --config-name=config
python3 Spike_train_matching/run_image_task_1hid.py method=stochasticsuperspike dataset=neuron seed=3
python3 Spike_train_matching/run_image_task_1hid.py -m method=superspike,multilayerspiker seed=1,2,3
"""

import logging

from surgrad.config.common import resolve_device
from surgrad.config.entry import entry
from surgrad.experiments.spike_train_matching.config import SpikeTrainMatchingConfig
from surgrad.experiments.spike_train_matching.recording import Matching, Recorder
from surgrad.experiments.spike_train_matching.training import Learner
from surgrad.runs.folder import Run
from surgrad.training.resume import run_epochs

log = logging.getLogger(__name__)


@entry(
    "spike_train_matching",
    SpikeTrainMatchingConfig,
    run_name="${method.name}/dataset=${dataset.name}/seed=${seed}+lr_h=${dataset_method.lr_h}+lr_o=${dataset_method.lr_o}",
)
def main(cfg: SpikeTrainMatchingConfig, run: Run) -> float:
    device = resolve_device(cfg.device)
    task, weights, training = cfg.build(device)
    log.info("%d pairs, %d steps, %d outputs", task.nb_pairs, task.nb_steps, task.target.shape[-1])
    recorder = Recorder(run, task, cfg)
    recorder.constants()
    run_epochs(
        Matching(Learner(task, weights, training), recorder),
        run,
        range(cfg.nb_epochs),
        logging_freq=cfg.logging_freq,
        checkpoint_seconds=cfg.checkpoint_seconds,
    )
    van_rossum = recorder.summarize()
    log.info("van Rossum %.4f over the last %d epochs", van_rossum, run.summary.get("averaged_epochs", 0))
    return van_rossum


if __name__ == "__main__":
    main()
