"""How much memory a library's convolutions may take for themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["first_time", "workspace_within"]

MARGIN = 64 * 2**20  # what an allocator rounds up


class _Seen(threading.local):
    def __init__(self) -> None:
        self.keys: set[Hashable] = set()


_SEEN = _Seen()


def first_time(key: Hashable) -> bool:
    """Whether this thread asks for the first time; the library remembers its choices by thread, for the process."""
    new = key not in _SEEN.keys
    _SEEN.keys.add(key)
    return new


def workspace_within(limit: int, result: int, device: torch.device, run: Callable[[], Tensor]) -> Tensor:
    """Run a convolution for the first time, when the library times its kernels, with little memory to choose from.

    Where kernels are timed, one is taken that is the fastest by a hair and needs 20 GiB for it. There is no setting
    against that, but a kernel whose workspace cannot be allocated is not considered.

    Args:
        limit: Bytes of workspace.
        result: Bytes of what the convolution returns.
        device: A GPU.
        run: The convolution.

    Returns:
        What it returned. If it does not fit, it is run again without a limit.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    before = _fraction(device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # free blocks that the allocator keeps would be given out whatever the limit is
    share = (torch.cuda.memory_reserved(device) + limit + result + MARGIN) / total
    if share >= before:
        return run()
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        return run()
    except RuntimeError:
        torch.cuda.set_per_process_memory_fraction(before, device)
        return run()
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def _fraction(device: torch.device) -> float:
    """The share of the GPU's memory that this process may take."""
    asked = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if asked is None else float(asked(device))
