"""Classifies the Yin-Yang data set by exact (EventProp) or surrogate gradients; keys: configs/eventprop.

python3 Classification/yin_yang.py
python3 Classification/yin_yang.py -m seed=0,1,2,3,4
python3 Classification/yin_yang.py -m --config-name=surrogate method=eventprop,surrogate
"""

from surgrad import figures
from surgrad.eventprop_training import learn
from surgrad.runs import RunRecord
from surgrad.schema import entry
from surgrad.schema.eventprop import YinYangConfig


@entry("eventprop", YinYangConfig, run_name="yin_yang/${method}-${loss}/seed=${seed}+lr=${lr}")
def main(cfg: YinYangConfig, run) -> float:
    acc = learn(cfg, run)
    if cfg.plot:
        run.figure("training", figures.training_curves(RunRecord(run.folder).metrics, chance=1 / cfg.sizes[-1]))
    return acc


if __name__ == "__main__":
    main()
