"""Classifies spike trains by exact (EventProp) or surrogate gradients; keys: configs/event_snn.

python3 Classification/event_SNN.py
python3 Classification/event_SNN.py --config-name=mnist
python3 Classification/event_SNN.py -m method=eventprop,surrogate seed=0,1,2
"""

from surgrad.config.entry import entry
from surgrad.experiments.eventprop.config import EventSNNConfig
from surgrad.experiments.eventprop.training import learn
from surgrad.runs.folder import Run


@entry("event_snn", EventSNNConfig, run_name="event_snn/${dataset.name}/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: EventSNNConfig, run: Run) -> float:
    return learn(cfg, run)


if __name__ == "__main__":
    main()
