"""Training: one epoch, many epochs with resume, evaluation, losses, regularisers, optimisers."""
