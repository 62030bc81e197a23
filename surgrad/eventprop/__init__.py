"""Exact gradients of spike times (Wunderlich & Pehle 2021), event by event and on the grid."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.eventprop.layers")
