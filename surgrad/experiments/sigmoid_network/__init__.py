"""What surrogate gradients are: sigmoid networks, exact enumeration and the studies of `Sigmoid_network/`."""
