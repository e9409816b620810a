"""Short turns of the interpreter while a block is made."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TURN = 0.001

_lock = threading.Lock()
_inside = 0
_before = 0.0


@contextmanager
def short_turns() -> Iterator[None]:
    """Let threads take turns of a millisecond rather than five.

    A network is thousands of short calls, and after each one its thread waits for the interpreter as long as another
    thread may keep it. A cell of pure Python would slow generation down to a crawl. The setting belongs to the whole
    process, so it is changed only while a block is being made, and never to longer turns.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(TURN, _before))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                sys.setswitchinterval(_before)
