"""Classifies spike trains by exact (EventProp) or surrogate gradients; keys: configs/event_snn.

python3 Classification/event_SNN.py
python3 Classification/event_SNN.py --config-name=mnist
python3 Classification/event_SNN.py -m method=eventprop,surrogate seed=0,1,2
"""

from surgrad.config.entry import entry
from surgrad.experiments.eventprop.config import EventSNNConfig
from surgrad.experiments.eventprop.training import learn
from surgrad.figures import plots as figures
from surgrad.runs.record import RunRecord


@entry("event_snn", EventSNNConfig, run_name="event_snn/${dataset.name}/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: EventSNNConfig, run) -> float:
    acc = learn(cfg, run)
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / cfg.sizes[-1]))
    return acc


if __name__ == "__main__":
    main()
