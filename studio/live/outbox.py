"""Announces events in order, from any thread, without holding a lock while listeners run."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from studio.events import Event, Listener

logger = logging.getLogger(__name__)


class Outbox:
    """A queue of events and those who listen.

    Whoever posts also delivers, unless another thread is delivering already: it then delivers these as well. So the
    order is that of posting, and a listener may post in turn. Bound methods are held weakly, so that a listener's
    object is not kept alive by listening.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._listeners: dict[int, Callable[[], Listener | None]] = {}
        self._failed: set[int] = set()
        self._count = 0
        self._over = False
        self._busy = threading.Lock()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener.

        Args:
            listener: called with each event; it must return at once.

        Returns:
            A function that removes it, harmless when repeated.

        Raises:
            ValueError: it cannot be called.
        """
        if not callable(listener):
            raise ValueError(f"`listener` must be callable, got {listener!r}")
        self._count += 1
        number, bound = self._count, getattr(listener, "__self__", None)
        weak = bound is not None and hasattr(listener, "__func__")
        self._listeners[number] = weakref.WeakMethod(listener) if weak else lambda: listener  # type: ignore[arg-type]
        return lambda: self._forget(number)

    def post(self, kind: Any, payload: Any) -> None:
        """Queue an event; `deliver` sends it."""
        self._events.append(Event(kind, payload))

    def finish(self) -> None:
        """Send what is queued, then forget the listeners."""
        self._over = True
        self.deliver()
        if not self._events and not self._busy.locked():  # else whoever delivers does it
            self._listeners.clear()

    def deliver(self) -> None:
        """Send what is queued, unless another thread is at it."""
        # An event queued while the other thread was leaving its loop is picked up by the second look.
        while self._events and self._busy.acquire(blocking=False):
            try:
                while self._events:
                    self._send(self._events.popleft())
                if self._over:
                    self._listeners.clear()
            finally:
                self._busy.release()

    def _send(self, event: Event) -> None:
        for number, reference in list(self._listeners.items()):
            listener = reference()
            if listener is None:
                self._forget(number)
                continue
            try:
                listener(event)
            except Exception:
                if number not in self._failed:
                    self._failed.add(number)
                    logger.exception("a listener failed on a %r event; later failures of it are not logged", event.kind)

    def _forget(self, number: int) -> None:
        self._listeners.pop(number, None)
