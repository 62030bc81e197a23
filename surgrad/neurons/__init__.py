"""Neurons: dynamics of one step, surrogate derivatives, escape noise."""
