"""Trains a stack of dense spiking layers, recurrent or not, to classify spike trains; keys: configs/dense.

python3 Classification/dense_SNN.py
python3 Classification/dense_SNN.py --config-name=tutorial2
python3 Classification/dense_SNN.py -m dataset=randman surrogate=superspike,sigmoid surrogate.beta=1,10,100 seed=0,1,2
"""

import logging
from functools import partial

import torch

from surgrad.config.common import resolve_device
from surgrad.config.entry import entry
from surgrad.experiments.dense.config import DenseConfig
from surgrad.experiments.dense.figures import delay_distributions
from surgrad.figures import plots as figures
from surgrad.network.connections import begin_epoch, learned_delays
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.evaluation import evaluate, evaluate_repeatedly, final_scores
from surgrad.training.fit import Fit
from surgrad.training.monitoring import Monitor, Shown
from surgrad.training.workload import workload

log = logging.getLogger(__name__)


@entry("dense", DenseConfig, run_name="${hydra.job.config_name}/dataset=${dataset.name}/seed=${seed}+lr=${lr}")
def main(cfg: DenseConfig, run: Run) -> float:
    device = resolve_device(cfg.device)
    data = cfg.dataset
    train, valid, test = data.splits()
    log.info("%s: %d training, %d validation, %d test samples", data.name, len(train), len(valid or []), len(test))

    network = cfg.network(train.nb_units, train.nb_classes, torch.Generator().manual_seed(cfg.seed)).to(device)
    cfg.start_weights(network)
    first_delays = learned_delays(network)
    grid, objective, compute = cfg.grid(train.nb_units, str(device)), cfg.objective(), cfg.compute()
    monitor = Monitor(
        network,
        train if valid is None else valid,
        grid,
        run,
        Shown(cfg.monitor_samples, idx_layer=0),
        repeats=None,
        seed=cfg.seed,
        compute=compute,
        plot=cfg.plot,
    )

    def look(epoch: int) -> dict[str, float]:
        """Monitor before and after training; the test accuracy of this epoch, where it is to be watched."""
        columns = monitor("before" if epoch == 0 else "after") if epoch == 0 or fit.is_last(epoch) else {}
        if cfg.watch_test:
            scores = evaluate(network, test, grid, objective, seed=cfg.seed, draw=epoch, compute=compute)
            columns["test_acc"] = scores.acc
        return columns

    optimizer = cfg.build_optimizer(network)
    plan = cfg.plan(augment=data.augmentation())
    fit = Fit(
        network, optimizer, train, valid, grid, objective, run, plan, partial(begin_epoch, network), after_epoch=look
    )
    best = fit()

    score = partial(evaluate_repeatedly, nb_draws=cfg.test_draws, seed=cfg.seed, compute=compute)
    found = final_scores(
        network,
        best,
        fit.done,
        {"valid": valid, "test": test},
        lambda split: score(network, split, grid, objective)._asdict(),
    )
    network.load_state_dict(best.weights)
    cost = workload(network, test, grid, objective.loss, seed=cfg.seed, compute=compute)  # of the best epoch
    run.summary.update(
        found,
        nb_classes=train.nb_classes,
        nb_weights=sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
        **cost.columns(),
    )
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / train.nb_classes))
        if first_delays:
            run.figure("delays", delay_distributions(first_delays, learned_delays(network)))
    log.info("test accuracy %.3f, %.0f spikes per sample", run.summary["test_acc"], cost.spikes)
    return run.summary.get("valid_acc_best_valid", run.summary["test_acc"])


if __name__ == "__main__":
    main()
