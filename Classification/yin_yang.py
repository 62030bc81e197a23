"""Classifies the Yin-Yang data set by exact (EventProp) or surrogate gradients; keys: configs/eventprop.

python3 Classification/yin_yang.py
python3 Classification/yin_yang.py -m seed=0,1,2,3,4
python3 Classification/yin_yang.py -m --config-name=surrogate method=eventprop,surrogate
"""

from surgrad.config.entry import entry
from surgrad.experiments.eventprop.config import YinYangConfig
from surgrad.experiments.eventprop.training import learn
from surgrad.figures import plots as figures
from surgrad.runs.record import RunRecord


@entry("eventprop", YinYangConfig, run_name="yin_yang/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: YinYangConfig, run) -> float:
    acc = learn(cfg, run)
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / cfg.sizes[-1]))
    return acc


if __name__ == "__main__":
    main()
