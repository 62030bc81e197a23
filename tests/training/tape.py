"""What stands for a CUDA graph on a CPU: every operation of a step, to be repeated on the same tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records the operations of a step; a replay computes them again, from and into the tensors of the recording.

    As in a graph, numbers that the host knew are constants, and tensors are those that were there.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.output, self.fresh = [], None, False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, found))
        return found

    def capture(self, step):
        with self:
            self.output = step()
        self.fresh = True  # other than a graph's, a recording has computed

    @torch.no_grad()
    def replay(self):
        if not self.fresh:
            for operation, args, kwargs, before in self.operations:
                now = operation(*args, **kwargs)
                if operation.is_view or operation._schema.is_mutable:
                    continue  # the tensors of the recording have it
                for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
                    if isinstance(old, torch.Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)
        self.fresh = False
        return self.output
