"""Exact beside surrogate gradients: Yin-Yang, MNIST, spoken digits."""
