"""Spike data: events in memory, SHD-format files, generated sets, splits and augmentation."""
