"""What all compiled pieces share: kernels of their own, kept on disk between runs."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any

import torch

from studio.model.embeddings import cache_folder

__all__ = ["compiled_anew"]

KERNELS = "TORCHINDUCTOR_CACHE_DIR"


def compiled_anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for one shape at a time, as whole graphs, apart from all other compilations of it.

    The compiler counts how often a function's code was compiled, whoever asked for it, and gives up after a few times;
    a copy of the code has a count of its own. Kernels are kept in the studio's cache folder unless the compiler's own
    variable names another, so that the next run finds them.

    Args:
        function: A plain function without a closure.

    Returns:
        The compiled function; its first call compiles.
    """
    os.environ.setdefault(KERNELS, str(cache_folder() / "kernels"))
    assert isinstance(function, types.FunctionType)
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(copy, fullgraph=True, dynamic=False)
