"""Fixtures of the tests of kernels."""

import pytest


@pytest.fixture(params=["one sample", "many samples", "weights in blocks"])
def programs(request, monkeypatch):
    """Programs of a small dense recurrence: of small batches, of large ones, and those that larger layers have."""
    if request.param != "one sample":
        from surgrad.kernels.gpu import layer

        monkeypatch.setattr(layer, "HELD_OF_ONE", 0)
        monkeypatch.setattr(layer, "HELD_OF_MANY", 0 if request.param == "weights in blocks" else 64)
