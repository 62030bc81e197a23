"""Trains a network without spikes, a GRU or a convolution over time, on the input of the spiking ones.

python3 Classification/non_spiking.py
python3 Classification/non_spiking.py model=convolutional dataset.time_step=4e-3
"""

import logging
from functools import partial
from typing import cast

from surgrad.config.common import resolve_device
from surgrad.config.entry import entry
from surgrad.experiments.non_spiking.config import NonSpikingConfig
from surgrad.experiments.non_spiking.networks import begin_epoch
from surgrad.figures import plots as figures
from surgrad.network.network import Network
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.evaluation import evaluate, final_scores
from surgrad.training.fit import Fit

log = logging.getLogger(__name__)


@entry(
    "non_spiking",
    NonSpikingConfig,
    run_name="${hydra.runtime.choices.model}/dataset=${dataset.name}/seed=${seed}+lr=${lr}",
)
def main(cfg: NonSpikingConfig, run: Run) -> float:
    device, data = resolve_device(cfg.device), cfg.dataset
    train, valid, test = data.splits()
    log.info("%s: %d training, %d validation, %d test samples", data.name, len(train), len(valid or []), len(test))
    network = cast(Network, cfg.network(train.nb_units, train.nb_classes).to(device))  # in all that training asks of it
    cfg.start_weights(network)
    grid, objective = cfg.grid(train.nb_units, str(device)), cfg.objective()
    optimizer = cfg.build_optimizer(network)  # type: ignore[arg-type]
    plan = cfg.plan(augment=data.augmentation())
    best = Fit(network, optimizer, train, valid, grid, objective, run, plan, partial(begin_epoch, cfg.seed))()
    splits = {"valid": valid, "test": test}

    def score(split: object) -> dict[str, float]:
        scores = evaluate(network, split, grid, objective)  # type: ignore[arg-type]
        return {"loss": scores.loss, "acc": scores.acc}

    run.summary.update(
        final_scores(network, best, cfg.nb_epochs, splits, score),
        nb_classes=train.nb_classes,
        nb_weights=sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
    )
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / train.nb_classes))
    log.info("test accuracy %.3f", run.summary["test_acc"])
    return run.summary.get("valid_acc_best_valid", run.summary["test_acc"])


if __name__ == "__main__":
    main()
