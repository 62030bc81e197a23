"""Membranes as initialised (Rossbroich et al. 2022; Perez-Nieves & Goodman 2023)."""
