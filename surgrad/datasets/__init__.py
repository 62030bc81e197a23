"""Spike data: events in memory, SHD-format files, generated sets, splits and augmentation.

Nothing is imported here: processes that only turn sound into spikes do without torch.
"""
