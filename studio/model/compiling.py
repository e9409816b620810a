"""What all compiled pieces share: kernels of their own, kept on disk between runs."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any

import torch

from studio.model.embeddings import cache_folder

__all__ = ["anew", "compiled_anew"]

KERNELS = "TORCHINDUCTOR_CACHE_DIR"


def anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with code of its own.

    The compiler counts how often a function's code was compiled, whoever asked for it, and gives up after a few times;
    a copy of the code has a count of its own.

    Args:
        function: A plain function.

    Returns:
        Another function that does the same.
    """
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def compiled_anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for one shape at a time, as whole graphs, apart from all other compilations of it; see `anew`.

    Kernels are kept in the studio's cache folder unless the compiler's own variable names another, so that the next run
    finds them.

    Args:
        function: A plain function without a closure.

    Returns:
        The compiled function; its first call compiles.
    """
    os.environ.setdefault(KERNELS, str(cache_folder() / "kernels"))
    return torch.compile(anew(function), fullgraph=True, dynamic=False)
