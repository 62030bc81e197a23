"""Schema of the test suite. In a module of its own, as the workers of a parallel sweep need it."""

from dataclasses import dataclass, field
from typing import Any

from surgrad.config.common import CommonConfig
from surgrad.errors import UserError


@dataclass
class MethodConfig:
    name: str = "superspike"
    beta: float = 10.0  # slope of the surrogate, 1/threshold
    surrogate: Any = None


@dataclass
class Config(CommonConfig):
    nb_epochs: int = 2
    tau_mem: float = 20e-3  # s
    nb_filters: list[int] = field(default_factory=lambda: [16, 32])
    duration: float = 0.7  # s
    tau_readout: float = 0.7  # s
    dataset: Any = None
    method: MethodConfig = field(default_factory=MethodConfig)
    fail: str | None = None  # user | bug | kill | dead | term | ctrl_c; all but dead only in the first attempt
    pause: float = 0.0  # s after each epoch

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nb_epochs < 1:
            raise UserError(f"nb_epochs={self.nb_epochs}: wanted 1 or more")
