"""What programs in torch need on CUDA: graphs, and products with rounded inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether CUDA's float32 matrix products may round their inputs to 19 bits."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, on
    try:
        yield
    finally:
        matmul.allow_tf32 = before


class Graph:
    """A function of CUDA tensors as one graph over static copies of its arguments."""

    def __init__(self, function: Callable[..., Tensor], *args: Tensor) -> None:
        self.args = [arg.clone() for arg in args]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy initialisations must not be captured
            for _ in range(3):
                function(*self.args)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = function(*self.args)

    def __call__(self, *args: Tensor) -> Tensor:
        for mine, arg in zip(self.args, args, strict=True):
            mine.copy_(arg)
        self.graph.replay()
        return self.out.clone()
