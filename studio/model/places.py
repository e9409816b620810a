"""Where a model is to compute and in which type, checked before anything is loaded."""

from __future__ import annotations

import torch

from studio.timeline import shorten

__all__ = ["check_device", "check_dtype"]


def check_device(device: str | torch.device | None) -> torch.device:
    """Check where to compute.

    Args:
        device: as "cpu" or "cuda:0"; None for a GPU where there is one.

    Returns:
        The device.

    Raises:
        ValueError: no such device, none that this torch can compute on, or "meta", which holds no numbers.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f'`device` must be as "cpu" or "cuda:0", got {shorten(device)}; leave it out for the best'
        ) from None
    if found.type == "cuda" and (found.index or 0) >= gpus:
        raise ValueError(f'`device` must be here, got "{found}" with {gpus} GPUs; use "cpu", see `studio doctor`')
    _try(found)
    return found


def _try(device: torch.device) -> None:
    """Put nothing on a device; each kind of device has errors of its own for not being here."""
    if device.type == "meta":
        raise ValueError('`device` must be one that holds numbers, got "meta", which has shapes only; use "cpu"')
    try:
        torch.empty(0, device=device)
    except Exception as error:
        why = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
        raise ValueError(
            f'`device` must be here, got "{device}", on which this torch cannot compute ({why}); use "cpu", see '
            "`studio doctor`"
        ) from error


def check_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Check the type of the weights.

    Args:
        dtype: a floating-point type of torch or its name; None for the device's own.

    Returns:
        The type, or None.

    Raises:
        ValueError: no such type.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f'`dtype` must be "float32", "bfloat16" or "float16", got {shorten(dtype)}; leave it out')
    return found
