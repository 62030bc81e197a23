"""A hidden layer learns to emit given spike trains (Gygax & Zenke 2025, fig. 5)."""
