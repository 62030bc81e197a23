"""A function of tensors captured as CUDA graphs, one for each shape of its arguments, and replayed.

A replay launches everything at once: no Python, no launch of its own for each layer or time step.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from surgrad.errors import UserError, known

logger = logging.getLogger(__name__)


class Graph(Protocol):
    """What is recorded once and replayed."""

    def capture(self, step: Callable[[], object]) -> None:
        """Record what ``step`` does."""

    def replay(self) -> Any:
        """Do it again; what the step returned, in the same tensors."""


class CudaGraph:
    """A CUDA graph. Graphs of one ``pool`` share memory: they must not run at the same time."""

    def __init__(self, pool: Any = None):
        self.graph, self.pool, self.output = torch.cuda.CUDAGraph(), pool, None

    def capture(self, step: Callable[[], Any]) -> None:
        with torch.cuda.graph(self.graph, pool=self.pool):
            self.output = step()

    def replay(self) -> Any:
        self.graph.replay()
        return self.output


class GraphedStep:
    """A step of training as CUDA graphs, one for each shape of its arguments.

    A shape that comes for the first time runs as it is, so that kernels are compiled and the optimiser has its state;
    when it comes again, the step is captured and replayed, as it is ever after. Each call is one step, captured or not.
    Arguments that are not on a GPU run as they are, and so does everything after a capture that failed, which is said.

    The step must read all that changes from its arguments or from tensors updated in place, never wait for the device
    (no ``.item()``, no printing), and keep its optimiser's state on the device (``capturable=True``). What it returns
    is overwritten by the next call. Escape noise is drawn anew only if ``draw`` is an argument.

    Args:
        step: function of tensors that zeroes gradients, runs the network and its loss, and lets the optimiser step.
        most: shapes that are captured; others run as they are.
        graph: makes a graph; None: CUDA's, which share their memory.

    Raises:
        UserError: if most is negative.
    """

    def __init__(self, step: Callable[..., object], most: int = 8, graph: Callable[[], Graph] | None = None):
        if most < 0:
            raise UserError(f"most={most} must not be negative")
        self.step, self.most, self.make = step, most, graph
        self.pool: Any = None
        self.failed = False
        #: By shapes and types: nothing where they came once, else the graph and the arguments that it reads.
        self.graphs: dict[tuple[Any, ...], tuple[Graph, tuple[Tensor, ...]] | None] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        if self.make is None and not all(x.is_cuda for x in arguments):
            return self.step(*arguments)
        with torch.cuda.device_of(arguments[0]):  # streams and graphs are of the current device
            return self._step(arguments)

    def _step(self, arguments: tuple[Tensor, ...]) -> Any:
        if self.failed:
            return self.step(*arguments)
        shapes = tuple((x.shape, x.dtype) for x in arguments)
        if shapes not in self.graphs:
            if len(self.graphs) < self.most:
                self.graphs[shapes] = None
            return self._aside(arguments)
        if self.graphs[shapes] is None:
            fixed, graph = tuple(x.clone() for x in arguments), self._new()
            try:
                graph.capture(lambda: self.step(*fixed))
            except RuntimeError as error:  # of CUDA; nothing has been computed
                logger.warning("a step could not be captured as a CUDA graph and is launched as it is: %s", error)
                self.failed = True
                self.graphs.clear()
                return self.step(*arguments)
            self.graphs[shapes] = graph, fixed
        graph, fixed = known("the graph", self.graphs[shapes])
        for old, new in zip(fixed, arguments, strict=True):
            old.copy_(new)
        return graph.replay()

    def _new(self) -> Graph:
        if self.make is not None:
            return self.make()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        return CudaGraph(self.pool)

    def _aside(self, arguments: tuple[Tensor, ...]) -> Any:
        """Run on a stream of its own, as a capture wants its warm-up."""
        if not arguments[0].is_cuda:
            return self.step(*arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self.step(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return output
