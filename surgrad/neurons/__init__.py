"""Neurons: dynamics of one step, surrogate derivatives, escape noise."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.neurons.lif")
