"""How busy the device is, for people."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

REFRESH_S = 0.5
_GB = 1e9


class DeviceMeter:
    """Describes what a device is doing; looks at most twice a second, however often it is asked.

    Args:
        device: what computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._text = device, ""
        self._at, self._spent = time.perf_counter(), time.process_time()

    def describe(self) -> str:
        """What it is doing.

        Returns:
            On a CPU the cores that this process kept busy lately, and its memory: "1.4 of 2 cores, 0.9 GB"; on a GPU
            its memory that is taken: "4.1 of 80 GB taken". Empty before there is anything to tell.
        """
        now = time.perf_counter()
        if now - self._at >= REFRESH_S:
            self._text = self._of_gpu() if self._device.type == "cuda" else self._of_cpu(now)
            self._at, self._spent = now, time.process_time()
        return self._text

    def _of_cpu(self, now: float) -> str:
        busy = (time.process_time() - self._spent) / (now - self._at)
        memory = resident_bytes()
        return f"{busy:.1f} of {os.cpu_count() or 1} cores" + (f", {memory / _GB:.1f} GB" if memory else "")

    def _of_gpu(self) -> str:
        free, total = torch.cuda.mem_get_info(self._device)
        return f"{(total - free) / _GB:.1f} of {total / _GB:.0f} GB taken"


def resident_bytes() -> int:
    """Memory of this process that is in use now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    try:
        import psutil
    except ImportError:
        return 0
    return int(psutil.Process().memory_info().rss)
