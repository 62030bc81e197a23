"""The suites and the dataclasses of their configurations."""

from importlib import import_module

SCHEMAS = {
    "classification": "classification.config.ClassificationConfig",
    "dense": "dense.config.DenseConfig",
    "event_snn": "eventprop.config.EventSNNConfig",
    "eventprop": "eventprop.config.YinYangConfig",
    "initialization": "initialization.config.InitializationConfig",
    "non_spiking": "non_spiking.config.NonSpikingConfig",
    "spike_train_matching": "spike_train_matching.config.SpikeTrainMatchingConfig",
    "superspike": "superspike.config.SuperSpikeConfig",
}


def schema_of(suite: str) -> type:
    """The dataclass of a suite."""
    module, _, name = SCHEMAS[suite].rpartition(".")
    schema: type = getattr(import_module(f"surgrad.experiments.{module}"), name)
    return schema
