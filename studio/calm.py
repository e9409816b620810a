"""Lets the network's threads wait calmly, where that can still be settled: importing this comes before torch.

The threads of one operation wait for each other by spinning, for milliseconds. That is well while they have the machine
to themselves. But a live session shares a laptop with a browser and a running cell: there a thread spins for a partner
that was put aside to let it spin, and a block takes many times as long (two processors with one busy program beside
them: 3.5 s a block rather than 0.5 s to 1.2 s). Spinning for some microseconds and then sleeping costs nothing
measurable on a quiet machine.
"""

from __future__ import annotations

import os
import sys

# For GNU's OpenMP in rounds of a loop, for LLVM's and Intel's in milliseconds.
SPINS = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}
SAID_OTHERWISE = ("OMP_WAIT_POLICY", *SPINS)


def calm_threads() -> bool:
    """Tell OpenMP to spin briefly, unless somebody has told it something or torch has loaded it already.

    Returns:
        Whether it was told.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SAID_OTHERWISE):
        return False
    os.environ.update(SPINS)
    return True


calm_threads()
