"""Teaches a spiking network to fire at given times, online: SuperSpike; keys: configs/superspike.

python3 Spike_train_matching/run_superspike.py
python3 Spike_train_matching/run_superspike.py dt=0.1e-3 nb_epochs=300
python3 Spike_train_matching/run_superspike.py -m feedback=symmetric,random,uniform seed=0,1,2,3,4
"""

import logging

from surgrad.config.entry import entry
from surgrad.experiments.superspike.config import SuperSpikeConfig
from surgrad.experiments.superspike.training import Trials
from surgrad.runs.folder import Run
from surgrad.training.resume import run_epochs

CHECKPOINT_SECONDS = 30.0  # what a kill costs at most

log = logging.getLogger(__name__)


@entry(
    "superspike", SuperSpikeConfig, run_name="superspike/${feedback}/seed=${seed}+lr_h=${lr_h}+lr_o=${lr_o}+dt=${dt}"
)
def main(cfg: SuperSpikeConfig, run: Run) -> float | None:
    trials = Trials(cfg, run)
    run.summary["van_rossum_silent"] = trials.silence()
    log.info("van Rossum distance of silence: %.4f", run.summary["van_rossum_silent"])
    run_epochs(
        trials,
        run,
        range(cfg.nb_epochs),
        logging_freq=cfg.logging_freq,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        unit="trial",
    )
    return trials.summarize()


if __name__ == "__main__":
    main()
