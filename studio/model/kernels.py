"""Kernels of our own for NVIDIA GPUs, loaded where they can run; everything works without them.

They are for the two places in the transformer where a compiler's kernels move more bytes than they have to: what lies
between a block's projections and its attention, and what lies between the two products of its feed-forward in FP8.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

__all__ = ["own_kernels"]


@functools.cache
def own_kernels(device: torch.device) -> Any:
    """The module of kernels, or `None` where it cannot serve: no NVIDIA GPU of 2020 or later, or no Triton.

    Args:
        device: Where they would run.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        return importlib.import_module("studio.model.blockkernels")
    except ImportError:
        return None
