"""Networks: connections, parameters, layers, initialisers, methods."""
