"""Classifies the Yin-Yang data set by exact (EventProp) or surrogate gradients; keys: configs/eventprop.

python3 Classification/yin_yang.py
python3 Classification/yin_yang.py -m seed=0,1,2,3,4
python3 Classification/yin_yang.py -m --config-name=surrogate method=eventprop,surrogate
"""

import logging

import torch

from surgrad import figures
from surgrad.eventprop_network import evaluate
from surgrad.eventprop_training import EventFit
from surgrad.losses import MaxOverTimeCrossEntropy
from surgrad.runs import RunRecord
from surgrad.schema import entry
from surgrad.schema.eventprop import YinYangConfig
from surgrad.training import TEST_DRAW, BatchGrid, Fit, Objective
from surgrad.training import evaluate as evaluate_grid

log = logging.getLogger(__name__)


@entry("eventprop", YinYangConfig, run_name="yin_yang/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: YinYangConfig, run) -> float:
    train, valid, test = cfg.splits()
    learn = {"eventprop": exact, "surrogate": surrogate}[cfg.method]
    learn(cfg, run, train, valid, test)
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / 3))
    log.info("test accuracy %.4f", run.summary["test_acc"])
    return run.summary["valid_acc_best_valid"]


def exact(cfg: YinYangConfig, run, train, valid, test) -> None:
    """Spike times without a grid, EventProp."""
    network = cfg.event_network()
    best = EventFit(
        network,
        run,
        train,
        valid,
        nb_epochs=cfg.nb_epochs,
        batch_size=cfg.batch_size,
        lr=cfg.lr,
        lr_decay=cfg.lr_decay,
        seed=cfg.seed,
        logging_freq=cfg.logging_freq,
    )()
    # the test set is looked at once, here
    scores = evaluate(network, test)
    run.summary.update(test_loss=scores.loss, test_acc=scores.acc, test_silent_label=scores.silent_label)
    if best["model"]:
        network.load_state_dict(best["model"])
    run.summary.update(
        test_acc_best_valid=evaluate(network, test).acc, valid_acc_best_valid=best["acc"], best_epoch=best["epoch"]
    )


def surrogate(cfg: YinYangConfig, run, train, valid, test) -> None:
    """The same network on a time grid, surrogate gradients."""
    network = cfg.grid_network()
    grid = BatchGrid(cfg.batch_size, cfg.time_step, cfg.nb_steps)
    objective = Objective(MaxOverTimeCrossEntropy())
    optimizer = torch.optim.Adam(network.parameters(), cfg.lr)

    def decay(epoch: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * cfg.lr_decay ** (epoch - 1)

    best = Fit(
        network,
        optimizer=optimizer,
        train=cfg.dataset(train, "train"),
        valid=cfg.dataset(valid, "valid"),
        grid=grid,
        objective=objective,
        run=run,
        nb_epochs=cfg.nb_epochs,
        seed=cfg.seed,
        before_epoch=decay,
        logging_freq=cfg.logging_freq,
    )()
    last = evaluate_grid(network, cfg.dataset(test, "test"), grid, objective, draw=TEST_DRAW)
    network.load_state_dict(best.weights)
    chosen = evaluate_grid(network, cfg.dataset(test, "test"), grid, objective, draw=TEST_DRAW)
    run.summary.update(test_loss=last.loss, test_acc=last.acc, test_acc_best_valid=chosen.acc)
    run.summary.update(valid_acc_best_valid=best.acc, best_epoch=best.epoch)


if __name__ == "__main__":
    main()
