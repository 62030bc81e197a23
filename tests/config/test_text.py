"""Text that looks like a number stays text where the schema wants text."""

from dataclasses import dataclass, field

import pytest

from surgrad.config.command_line import translated
from surgrad.runs.wandb import WandbConfig

QUOTED = {
    "wandb.name=695e0514": "wandb.name='695e0514'",
    "wandb.group=1e5": "wandb.group='1e5'",
    "wandb.name=007": "wandb.name='007'",
    "wandb.name=1_000": "wandb.name='1_000'",
    "wandb.name=true": "wandb.name='true'",
    "wandb.name=nan": "wandb.name='nan'",
    "path=-inf": "path='-inf'",
    "++path=1e5": "++path='1e5'",
    "wandb.name=1e5,2,abc": "wandb.name='1e5','2',abc",
    "wandb.tags=[1e5,a]": "wandb.tags=['1e5',a]",
}
UNCHANGED = (
    *("wandb.name=abc", "wandb.name='1e5'", "wandb.name=null", "wandb.name=", "path=a/b-1", "wandb.name=${x}"),
    *("seed=1", "lr=1e5", "wandb.checkpoints=true", "unknown.key=1e5", "seed.x=1e5", "wandb=1e5", "x@y=1e5"),
    *("-m", "--config-name=1e5", "~wandb.name"),
)


@dataclass
class Schema:
    seed: int = 0
    lr: float = 1e-3
    path: str | None = None
    wandb: WandbConfig = field(default_factory=WandbConfig)


@pytest.mark.parametrize("typed", [*QUOTED, *UNCHANGED])
def test_numbers_are_quoted_where_text_is_wanted_and_nothing_else(typed):
    assert translated([typed], Schema, []) == [QUOTED.get(typed, typed)]
