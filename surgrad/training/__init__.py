"""Training: one epoch, many epochs with resume, evaluation, losses, regularisers, optimisers."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.training.fit", "surgrad.training.loop", "surgrad.training.evaluation")
