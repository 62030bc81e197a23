"""Spike data: events in memory, SHD-format files, generated sets, splits and augmentation."""

from surgrad.datasets.events import EventBatch, EventDataset
from surgrad.datasets.hdf5 import read_shd, write_shd
from surgrad.datasets.randman import Randman
from surgrad.datasets.splits import validation_split

__all__ = ["EventBatch", "EventDataset", "Randman", "read_shd", "validation_split", "write_shd"]
