"""Classifies the Yin-Yang data set by exact (EventProp) or surrogate gradients; keys: configs/eventprop.

python3 Classification/yin_yang.py
python3 Classification/yin_yang.py -m seed=0,1,2,3,4
python3 Classification/yin_yang.py -m --config-name=surrogate method=eventprop,surrogate
"""

from surgrad.config.entry import entry
from surgrad.experiments.eventprop.config import YinYangConfig
from surgrad.experiments.eventprop.training import learn
from surgrad.runs.folder import Run


@entry("eventprop", YinYangConfig, run_name="yin_yang/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: YinYangConfig, run: Run) -> float:
    return learn(cfg, run)


if __name__ == "__main__":
    main()
