"""Stands in for the connection to the browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from studio.widgets import Studio


class Browser:
    """A page that shows a widget: it records what arrives and says what a test lets it say.

    Args:
        widget: The widget; its way to the kernel's front end is replaced.
        client: Name of the page.
        confirms: Whether it confirms at once what wants to be confirmed.
    """

    def __init__(self, widget: Studio, client: str = "page", *, confirms: bool = True):
        self.widget, self.client, self.confirms = widget, client, confirms
        self.messages: list[dict[str, Any]] = []
        self.buffers: list[list[bytes] | None] = []
        self._changed = threading.Condition()
        pages = widget.__dict__.setdefault("pages", [])
        pages.append(self)
        widget.send = lambda content, buffers=None: [page.receive(content, buffers) for page in pages]

    def receive(self, content: dict[str, Any], buffers: list[bytes] | None) -> None:
        with self._changed:
            self.messages.append(content)
            self.buffers.append(buffers)
            self._changed.notify_all()
        if "serial" in content and self.confirms:
            self.say("ack", serial=content["serial"])

    def say(self, kind: str, *, data: bytes | None = None, **fields: Any) -> None:
        buffers = None if data is None else [memoryview(data)]
        self.widget._receive(self.widget, {"type": kind, "client": self.client, **fields}, buffers)

    def ready(self, hidden: bool = False) -> None:
        self.say("ready", hidden=hidden)

    def ask(self, kind: str, *, data: bytes | None = None, **fields: Any) -> dict[str, Any]:
        """Send a command and return the reply."""
        number = 1000 + len(self.messages)
        self.say(kind, data=data, id=number, **fields)
        return self.wait(lambda: next((m for m in self.of("reply") if m["id"] == number), None))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in list(self.messages) if message["type"] == kind]

    @property
    def blocks(self) -> list[int]:
        return [message["index"] for message in self.of("block")]

    def wait(self, found: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Wait until something is found in what arrived."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (value := found()):
                left = deadline - time.monotonic()
                assert left > 0, f"not within {timeout_s} s; arrived: {[m['type'] for m in self.messages]}"
                self._changed.wait(min(left, 0.1))
        return value

    def quiet(self, seconds: float = 0.3) -> None:
        """Let some time pass in which nothing should happen."""
        time.sleep(seconds)
