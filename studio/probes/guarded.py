"""A listener that can fail without harm: what looks on must never stop what it looks at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from studio.model.attention import Tap
from studio.probes.cost import Stopwatch
from studio.probes.passes import Listener, Pass, PassKind

__all__ = ["Guarded"]


class Guarded:
    """Stands before a listener: it counts its time, and lets it hear nothing more once it has failed.

    Args:
        listener: The listener.
        failed: Told of its error, in the middle of a pass; it must return at once.
    """

    def __init__(self, listener: Listener, failed: Callable[[Exception], None]) -> None:
        self._listener, self._failed = listener, failed
        self._watches: dict[PassKind, Stopwatch] = {}
        self._over = False

    def begin(self, call: Pass) -> Tap | None:
        """See `Listener.begin`."""
        if self._over or call.cache is None:
            return None
        with _Attempt(self, call):
            tap = self._listener.begin(call)
            return None if tap is None else _Tap(self, call, tap)
        return None

    def end(self, call: Pass) -> None:
        """See `Listener.end`."""
        if not self._over and call.cache is not None:
            with _Attempt(self, call):
                self._listener.end(call)

    def spent(self) -> dict[PassKind, float]:
        """Seconds that the listener took, by kind of pass, since this was asked for last; waits for a GPU."""
        watches, self._watches = self._watches, {}
        return {kind: watch.seconds for kind, watch in watches.items()}

    def fail(self, error: Exception) -> None:
        """End it, as where it failed between two passes; harmless when repeated."""
        if not self._over:
            self._over = True
            self._failed(error)

    def watch(self, call: Pass) -> Stopwatch:
        """What counts the time of a pass."""
        device = torch.device("cpu") if call.cache is None else call.cache.device
        return self._watches.setdefault(call.kind, Stopwatch(device))

    @property
    def over(self) -> bool:
        """Whether it has failed."""
        return self._over


class _Attempt:
    """Something that the listener does in a pass."""

    def __init__(self, guarded: Guarded, call: Pass) -> None:
        self._guarded, self._watch = guarded, guarded.watch(call)

    def __enter__(self) -> None:
        self._watch.__enter__()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self._watch.__exit__()
        if isinstance(error, Exception):
            self._guarded.fail(error)
            return True
        return False


class _Tap:
    """The tap of a guarded listener."""

    def __init__(self, guarded: Guarded, call: Pass, tap: Tap) -> None:
        self._guarded, self._call, self._tap = guarded, call, tap

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.self_attention`."""
        if not self._guarded.over:
            with _Attempt(self._guarded, self._call):
                self._tap.self_attention(layer, q, k, v)

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.cross_attention`."""
        if not self._guarded.over:
            with _Attempt(self._guarded, self._call):
                self._tap.cross_attention(layer, q, k, v)
