"""Spellings of the published suite that a suite here understands."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """What a published command may say beyond the keys and values of this suite."""

    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # {"dataset": {"SHD": "shd"}}
    keys: Mapping[str, str] = field(default_factory=dict)  # {"dataset.dt": "dataset.time_step"}
    single: Mapping[str, str] = field(default_factory=dict)  # group that had one option: that option
    unread: Mapping[str, str] = field(default_factory=dict)  # key that changed nothing: why; accepted at any value
    refused: Mapping[str, str] = field(default_factory=dict)  # key: what to say instead
