"""Networks: connections, parameters, layers, initialisers, methods."""

from surgrad.former import names_of

__getattr__ = names_of("surgrad.network.network")
