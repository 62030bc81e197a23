"""Trains a deep (recurrent) convolutional spiking network to classify spike trains; keys: configs/classification.

python3 Classification/deep_convSNN.py --config-name=config
python3 Classification/deep_convSNN.py method=superspike dataset=randman seed=3 nb_epochs=40
python3 Classification/deep_convSNN.py -m method=superspike,stochasticsuperspike seed=1,2,3
torchrun --nproc-per-node=4 Classification/deep_convSNN.py dataset=shd
"""

import logging
from collections.abc import Callable
from functools import partial

import torch

from surgrad.config.common import resolve_device
from surgrad.config.entry import entry
from surgrad.datasets.baselines import count_baseline, in_words
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.experiments.dense.figures import delay_distributions
from surgrad.figures import plots as figures
from surgrad.network.connections import begin_epoch, learned_delays
from surgrad.network.methods import set_neuron
from surgrad.runs.folder import Run
from surgrad.runs.record import RunRecord
from surgrad.training.distributed import Follower, Processes, open_run
from surgrad.training.evaluation import evaluate_repeatedly, final_scores
from surgrad.training.fit import Fit
from surgrad.training.monitoring import Monitor
from surgrad.training.workload import workload

log = logging.getLogger(__name__)


@entry(
    "classification",
    ClassificationConfig,
    run_name="${method.name}/dataset=${dataset.name}/seed=${seed}+lr=${method.lr}",
    opener=open_run,
)
def main(cfg: ClassificationConfig, run: Run | Follower) -> float:
    processes = Processes.current()
    device = processes.device(resolve_device(cfg.device))
    torch.backends.cudnn.deterministic = True  # the same command gives the same run
    data = cfg.dataset
    train, valid, test = data.splits()
    log.info("%s: %d training, %d validation, %d test samples", data.name, len(train), len(valid or []), len(test))

    generator = torch.Generator().manual_seed(cfg.seed)
    network = cfg.network(train.nb_units, train.nb_classes, generator)
    cfg.initialization()(network, generator)
    network.to(device)
    cfg.start_weights(network)
    first_delays = learned_delays(network)
    log.info("layers of %s units", [layer.unit_shape for layer in network.layers])

    grid, objective, compute = cfg.grid(train.nb_units, str(device)), cfg.objective(), cfg.compute()
    monitor = Monitor(
        network,
        train if valid is None else valid,
        grid,
        run,
        cfg.plotting.build(),
        cfg.repeats(),
        seed=cfg.seed,
        compute=compute,
        plot=cfg.plot == "plot",
    )

    def look(epoch: int) -> dict[str, float]:
        """Monitor before training, every epoch_chunk epochs, and after; one process does."""
        if not processes.first:
            return {}
        if epoch == 0 or fit.is_last(epoch):
            return monitor("before" if epoch == 0 else "after")
        return monitor(f"epoch_{epoch}") if cfg.monitor_chunks and epoch % cfg.epoch_chunk == 0 else {}

    def use(method: str) -> Callable[[int], None]:
        """Gives the network the neurons that a method has in an epoch, and lets its delays be those of the epoch."""

        def change(epoch: int) -> None:
            set_neuron(network, cfg.spiking(method, epoch))
            begin_epoch(network, epoch)

        return change

    optimizer = cfg.build_optimizer(network)
    plan = cfg.plan(augment=data.augmentation(), processes=processes)
    fit = Fit(network, optimizer, train, valid, grid, objective, run, plan, use(cfg.method.name), after_epoch=look)
    best = fit()

    score = partial(evaluate_repeatedly, nb_draws=cfg.test_draws, seed=cfg.seed, compute=compute, processes=processes)
    found = final_scores(
        network,
        best,
        fit.done,
        {"valid": valid, "test": test},
        lambda data: score(network, data, grid, objective)._asdict(),
        variants={"": use(cfg.method.name), "_other": use(cfg.method.other)},
    )
    sizes = {"nb_classes": train.nb_classes, "nb_weights": sum(weight.numel() for weight in network.parameters())}
    run.summary.update(found | sizes)
    use(cfg.method.other)(fit.done)
    fano = monitor("after_other") if processes.first else {}
    run.summary.update({name.replace("fano", "fano_other"): value for name, value in fano.items()})
    if processes.first:
        use(cfg.method.name)(best.epoch)
        network.load_state_dict(best.weights)
        cost = workload(network, test, grid, objective.loss, seed=cfg.seed, compute=compute)  # of the best epoch
        run.summary.update(cost.columns())
    if cfg.plot == "plot" and processes.first:
        metrics = RunRecord(run.folder).metrics
        run.figure("training", figures.training_curves(metrics, chance=1 / train.nb_classes))
        if first_delays:
            run.figure("delays", delay_distributions(first_delays, learned_delays(network)))
    log.info("test accuracy with %s %.3f", cfg.method.other, run.summary["test_acc_other"])
    counts = count_baseline(train, valid, test) if cfg.count_baseline and valid is not None else None
    run.summary.update({f"counts_{name}": value for name, value in (counts or {}).items()})
    log.info(in_words(run.summary["test_acc"], train, test, counts))
    return run.summary.get("valid_acc_best_valid", run.summary["test_acc"])


if __name__ == "__main__":
    main()
