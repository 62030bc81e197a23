"""A run folder read back: the network that it trained, and the data."""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import OmegaConf

from surgrad.analysis.rows import started_from
from surgrad.config.check import check
from surgrad.errors import UserError
from surgrad.experiments.classification.config import ClassificationConfig
from surgrad.experiments.datasets import Splits
from surgrad.experiments.dense.config import DenseConfig
from surgrad.experiments.spike_train_matching.config import SpikeTrainMatchingConfig
from surgrad.network.connections import Dense
from surgrad.network.layers import SpikingLayer
from surgrad.network.methods import set_neuron
from surgrad.network.network import Network
from surgrad.runs.record import RunRecord

WEIGHTS = ("best", "last")


def trained_network(record: RunRecord, weights: str = "best") -> Network:
    """The network of a run on the CPU, with its trained weights and the neurons that it had then.

    Args:
        record: run of deep_convSNN.py, dense_SNN.py or run_image_task_1hid.py.
        weights: "best", of the best validation epoch where there is one, or "last".

    Raises:
        UserError: for a run of another script, one without checkpoint, and unknown weights.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights}: unknown; allowed: {', '.join(WEIGHTS)}")
    script = started_from(record)[0]
    if script not in SCRIPTS:
        raise UserError(f"{record.folder} is a run of {script}: a network is read back from {', '.join(SCRIPTS)}")
    content = record.checkpoint()
    if content is None:
        raise UserError(f"{record.folder} holds no checkpoint: there are no weights to read")
    return SCRIPTS[script](OmegaConf.create(record.config), content, weights)


def splits(record: RunRecord) -> Splits:
    """Training, validation and test set of a run.

    Raises:
        UserError: for a run of a script that does not classify, and where the data are not there.
    """
    script = started_from(record)[0]
    if script not in CLASSIFY:
        raise UserError(f"{record.folder} is no run of {', '.join(CLASSIFY)}: its data sets are not read back")
    cfg: ClassificationConfig | DenseConfig = check(OmegaConf.create(record.config), CLASSIFY[script])
    return cfg.dataset.splits()


def _chosen(content: dict[str, Any], weights: str) -> tuple[dict[str, torch.Tensor], int]:
    if weights == "best":
        return content["best"]["weights"], content["best"]["epoch"]
    return content["model"], content["epoch"]


def _units(cfg: ClassificationConfig | DenseConfig) -> tuple[int, int]:
    """Input units and classes; of the training data, where the configuration leaves them to these."""
    data = cfg.dataset
    if data.nb_inputs is not None and data.nb_classes is not None:
        return data.nb_inputs, data.nb_classes
    train = data.splits()[0]
    return train.nb_units, train.nb_classes


def _convolutional(config: Any, content: dict[str, Any], weights: str) -> Network:
    cfg = check(config, ClassificationConfig)
    network = cfg.network(*_units(cfg))
    state, epoch = _chosen(content, weights)
    network.load_state_dict(state)
    set_neuron(network, cfg.neuron(cfg.method.name, max(epoch, 1)))
    return network


def _dense(config: Any, content: dict[str, Any], weights: str) -> Network:
    cfg = check(config, DenseConfig)
    network = cfg.network(*_units(cfg), torch.Generator().manual_seed(cfg.seed))
    network.load_state_dict(_chosen(content, weights)[0])
    return network


def _matching(config: Any, content: dict[str, Any], weights: str) -> Network:
    """Two layers without delay or readout; weights in units of the threshold."""
    task, _, training = check(config, SpikeTrainMatchingConfig).build(torch.device("cpu"))
    constants, layers = task.neurons, []
    for name, noise in (("w_hidden", training.mode.hidden), ("w_output", training.mode.output)):
        matrix = content[name].T / constants.theta
        connection = Dense(matrix.shape[1], matrix.shape[0])
        connection.weight.data = matrix.contiguous()
        layers.append(SpikingLayer(connection, task.neuron(noise, None), constants.tau_mem, constants.tau_syn))
    return Network(layers, None, constants.dt, delay=0)


#: Scripts whose runs train on a data set with splits, and what their configuration is checked against.
CLASSIFY: dict[str, type] = {"deep_convSNN": ClassificationConfig, "dense_SNN": DenseConfig}

SCRIPTS: dict[str, Callable[[Any, dict[str, Any], str], Network]] = {
    "deep_convSNN": _convolutional,
    "dense_SNN": _dense,
    "run_image_task_1hid": _matching,
}
