"""Means with 95 % intervals and curves of them over epochs, by the name that analyses know them by."""

from surgrad.runs.intervals import Curve, Interval, curve, interval

__all__ = ["Curve", "Interval", "curve", "interval"]
