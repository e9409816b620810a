"""Sends to the browser from a thread of its own, and never further ahead than the browser confirms."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from studio.events import DecodedBlock
from studio.widgets.protocol import block_message
from studio.widgets.quality import Level, Pacing

__all__ = ["Outbox"]

Message = dict[str, Any]
Send = Callable[[Message, list[bytes] | None], None]
Encode = Callable[[Any, Level], Sequence[bytes]]
Fetch = Callable[[int, int], DecodedBlock | None]
Make = Callable[[], tuple[Message, list[bytes] | None] | None]

# Of these only the latest matters, so an unsent one is replaced.
_LATEST = frozenset({"state", "timeline", "stats", "takes", "quick", "export"})


@dataclass
class _Client:
    """A page that shows the widget."""

    acked: int
    heard: float
    hidden: bool = False
    fresh: bool = True
    sent: dict[int, float] = field(default_factory=dict)


class Outbox:
    """Ordered sending with back-pressure, for any number of pages that show one widget.

    Small messages leave at once. Blocks wait until fewer than `window` are unconfirmed by the slowest page, and what is
    posted for later waits until no block is on its way, and is confirmed as blocks are. A page that
    confirms nothing for `timeout_s` seconds, or says nothing for `silent_s` while it is visible, is left out until it
    is heard from again. The thread starts with the first page and ends with the last.

    Args:
        send: Sends a message with its buffers; called from the outbox's thread only. Must not raise.
        encode: Compresses frames as the level says, one file a frame; an empty list is not sent. Must not raise.
        pacing: Chooses the level by how fast pages confirm; None where no blocks are sent.
        silent: Called without arguments when no page confirms any more.
        fetch: Finds a block by its take and number, for pages that look back; called from the outbox's thread and may
            take a moment. None where it is gone. Must not raise.
        window: Largest number of unconfirmed messages.
        timeout_s: Seconds after which an unconfirmed message counts as lost.
        silent_s: Seconds after which a visible page that says nothing counts as gone; it speaks every two or three.
        forget_s: Seconds of silence after which any page is forgotten.
        beat_s: Seconds between two signs of life towards the pages.
        stats_s: Least seconds between two messages with figures.
    """

    def __init__(
        self,
        send: Send,
        encode: Encode,
        pacing: Pacing | None = None,
        *,
        silent: Callable[[], None] = lambda: None,
        fetch: Fetch = lambda take, index: None,
        window: int = 2,
        timeout_s: float = 15.0,
        silent_s: float = 6.0,
        forget_s: float = 900.0,
        beat_s: float = 2.0,
        stats_s: float = 0.5,
    ):
        self._send, self._encode, self._silent, self._fetch = send, encode, silent, fetch
        self._window, self._timeout_s, self._silent_s, self._forget_s = window, timeout_s, silent_s, forget_s
        self._beat_s, self._stats_s = beat_s, stats_s
        self._wake = threading.Condition()
        self._clients: dict[str, _Client] = {}
        self._messages: deque[tuple[Message, list[bytes] | None]] = deque()
        self._blocks: deque[tuple[DecodedBlock, int, int]] = deque()
        self._cut: deque[tuple[DecodedBlock, int, int]] = deque()
        # By number of take and block.
        self._later: dict[tuple[int, int], Make] = {}
        self.pacing = pacing or Pacing(1, 1, 16.0)
        self._wants: dict[tuple[str, int], deque[int]] = {}
        self._flying: dict[int, tuple[int, int]] = {}
        self._serial = 0
        self._next_beat = self._next_stats = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    # What the pages say

    def join(self, client: str, hidden: bool = False) -> None:
        """Count a page in; what was unconfirmed by it is given up."""
        with self._wake:
            if self._closed:
                return
            self._clients[client] = _Client(acked=self._serial, heard=time.monotonic(), hidden=hidden)
            self._forget_wants(client)
            self.pacing.forget()
            if self._thread is None:
                self._next_beat = time.monotonic() + self._beat_s
                self._thread = threading.Thread(target=self._run, name="studio-widget-sender", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def leave(self, client: str) -> None:
        """Count a page out; without any page nothing is kept for sending."""
        with self._wake:
            self._clients.pop(client, None)
            self._forget_wants(client)
            if not self._clients:
                self._messages.clear()
                self._blocks.clear()
                self._cut.clear()
                self._later.clear()
            self._wake.notify_all()

    def heard(self, client: str, hidden: bool | None = None) -> bool:
        """Note a sign of life.

        Args:
            client: The page.
            hidden: Whether nobody can see it, where the message says so; browsers let hidden pages speak rarely.

        Returns:
            False if the page is unknown or had been given up: what it shows may have holes.
        """
        with self._wake:
            known = self._clients.get(client)
            if known is not None:
                known.heard = time.monotonic()
                known.hidden = known.hidden if hidden is None else hidden
            return known is not None and known.fresh

    def ack(self, client: str, serial: int) -> None:
        """Note that a page has received the block message `serial` and all before it."""
        with self._wake:
            known = self._clients.get(client)
            if known is None:
                return
            known.acked = max(known.acked, min(serial, self._serial))
            known.sent = {number: when for number, when in known.sent.items() if number > known.acked}
            sent = self._serial - self._in_flight()
            self.pacing.acked(sent, time.monotonic())
            self._flying = {number: block for number, block in self._flying.items() if number > sent}
            self._wake.notify_all()

    @property
    def clients(self) -> tuple[str, ...]:
        """The pages that confirm."""
        with self._wake:
            return tuple(name for name, client in self._clients.items() if client.fresh)

    @property
    def in_flight(self) -> int:
        """Block messages that the slowest page has not confirmed."""
        with self._wake:
            return self._in_flight()

    # What the source says

    def post(self, message: Message, buffers: list[bytes] | None = None) -> None:
        """Send a small message soon, with its buffers; never blocks."""
        with self._wake:
            if self._closed or not self._clients:
                return
            if message["type"] in _LATEST:
                self._messages = deque(old for old in self._messages if old[0]["type"] != message["type"])
            if message["type"] == "cache":  # it knows more than what waits of that block
                self._later.pop((message["take"], message["block"]), None)
            self._messages.append((message, buffers))
            self._wake.notify_all()

    def post_later(self, take: int, block: int, make: Make) -> None:
        """Send a reading of the cache when the pages have room and no block wants to be sent; never blocks.

        Args:
            take: Number of its take.
            block: The block that it is of; what waits of the same one is replaced.
            make: Makes the message and its buffers when it is its turn, or None for nothing; called from the outbox's
                thread. Must not raise.
        """
        with self._wake:
            if self._closed or not self._clients:
                return
            self._later[take, block] = make
            self._wake.notify_all()

    def post_block(self, block: DecodedBlock, *, parts: int = 1) -> None:
        """Send a block when the pages have room for it; never blocks.

        Args:
            block: The block; its frames must not change any more.
            parts: Messages to cut it into, so that the first frames arrive sooner.
        """
        with self._wake:
            if self._closed or not any(client.fresh for client in self._clients.values()):
                return
            count = len(block.frames)
            cuts = [round(count * part / parts) for part in range(parts + 1)]
            self._blocks.extend((block, start, stop) for start, stop in itertools.pairwise(cuts) if stop > start)
            self._wake.notify_all()

    def want(self, client: str, take: int, blocks: Sequence[int]) -> None:
        """Send blocks that a page asks for, before those that come by themselves; never blocks.

        Args:
            client: The page; what it asked for before of the same take and was not sent yet is forgotten.
            take: Number of their take; a page that compares two asks for both, and they are sent in turn.
            blocks: Their numbers; those under way already are not sent twice.
        """
        with self._wake:
            known = self._clients.get(client)
            if self._closed or known is None or not known.fresh:
                return
            flying = set(self._flying.values())
            self._wants[client, take] = deque(index for index in blocks if (take, index) not in flying)
            self._wake.notify_all()

    def drop_blocks(self, take: int) -> set[int]:
        """Forget the blocks not sent yet, and readings of other takes: a new take makes them stale.

        Args:
            take: Number of the new take.

        Returns:
            The blocks whose readings were forgotten.
        """

        def stale(message: Message) -> bool:
            return message["type"] == "cache" and message["take"] != take

        with self._wake:
            self._blocks.clear()
            self._cut.clear()
            self._wants.clear()
            forgotten = {block for of, block in self._later if of != take}
            self._later = {key: make for key, make in self._later.items() if key[0] == take}
            forgotten |= {message["block"] for message, _ in self._messages if stale(message)}
            self._messages = deque(entry for entry in self._messages if not stale(entry[0]))
            return forgotten

    def close(self) -> None:
        """End the thread and wait for it, unless called from it."""
        with self._wake:
            self._closed = True
            self._clients.clear()
            self._messages.clear()
            self._blocks.clear()
            self._cut.clear()
            self._later.clear()
            self._wants.clear()
            thread = self._thread
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    # The thread

    def _run(self) -> None:
        while True:
            action: Callable[[], None] | None = None
            with self._wake:
                silenced = self._give_up(time.monotonic())
                if not self._clients and not silenced:
                    self._thread = None
                    return
                if not silenced:
                    action, wait = self._next(time.monotonic())
                    if action is None:
                        self._wake.wait(wait)
            # Nothing foreign is called under the lock.
            if silenced:
                self._silent()
            elif action is not None:
                action()

    def _next(self, now: float) -> tuple[Callable[[], None] | None, float]:
        """What to do now, or nothing and how long to wait."""
        wait = min(self._next_beat - now, min(self._timeout_s, self._silent_s) / 4)
        for position, (message, buffers) in enumerate(self._messages):
            if message["type"] != "stats" or now >= self._next_stats:
                del self._messages[position]
                if message["type"] == "stats":
                    self._next_stats = now + self._stats_s
                return partial(self._send, message, buffers), 0.0
            wait = min(wait, self._next_stats - now)
        if now >= self._next_beat:
            self._next_beat = now + self._beat_s
            return partial(self._send, {"type": "beat"}, None), 0.0
        if self._in_flight() < self._window and any(client.fresh for client in self._clients.values()):
            if self._cut:
                return partial(self._send_block, *self._cut.popleft()), 0.0
            wanted = self._next_wanted()
            if wanted is not None:
                return partial(self._send_wanted, *wanted), 0.0
            if self._blocks:
                return partial(self._send_part, *self._blocks.popleft()), 0.0
            if self._later and max(self._flying, default=0) <= self._serial - self._in_flight():
                return partial(self._send_later, self._later.pop(next(iter(self._later)))), 0.0
        return None, max(0.01, min(wait, self._beat_s))

    def _next_wanted(self) -> tuple[int, int] | None:
        """Take and number of a block that was asked for: of each page and take in turn, the first that waits."""
        for key in list(self._wants):
            blocks = self._wants.pop(key)
            if not blocks:
                continue
            index = blocks.popleft()
            self._wants[key] = blocks
            return key[1], index
        return None

    def _forget_wants(self, client: str) -> None:
        self._wants = {key: blocks for key, blocks in self._wants.items() if key[0] != client}

    def _send_wanted(self, take: int, index: int) -> None:
        block = self._fetch(take, index)
        if block is not None:
            self._send_part(block, 0, len(block.frames))

    def _send_part(self, block: DecodedBlock, start: int, stop: int) -> None:
        """Send the first of as many parts as the link asks for; the others come next."""
        with self._wake:
            parts = self.pacing.parts(stop - start)
            cuts = [start + round((stop - start) * part / parts) for part in range(parts + 1)]
            first, *rest = itertools.pairwise(cuts)
            self._cut.extend((block, begin, end) for begin, end in rest)
        self._send_block(block, *first)

    def _send_block(self, block: DecodedBlock, start: int, stop: int) -> None:
        level = self.pacing.level
        jpegs = list(self._encode(block.frames[start:stop], level))
        if not jpegs:
            return
        message = block_message(block, start, jpegs, self.pacing.reduced)
        with self._wake:
            message["serial"] = self._number(now := time.monotonic())
            self.pacing.sent(self._serial, sum(map(len, jpegs)), len(jpegs), now)
            self._flying[self._serial] = (block.take, block.index)
        self._send(message, [b"".join(jpegs)])

    def _send_later(self, make: Make) -> None:
        if (made := make()) is None:
            return
        with self._wake:
            serial = self._number(time.monotonic())
        self._send({**made[0], "serial": serial}, made[1])

    def _number(self, now: float) -> int:
        """The number of another message that the pages are to confirm."""
        self._serial += 1
        for client in self._clients.values():
            client.sent[self._serial] = now
        return self._serial

    def _in_flight(self) -> int:
        return max((self._serial - c.acked for c in self._clients.values() if c.fresh), default=0)

    def _give_up(self, now: float) -> bool:
        """Leave out the pages that fell silent; whether the last one just did."""
        before = any(client.fresh for client in self._clients.values())
        for name, client in self._clients.items():
            # A hidden page may be a closed one; if it is not, it gets everything anew when it is seen again.
            patience = min(self._timeout_s, self._silent_s) if client.hidden else self._timeout_s
            unconfirmed = bool(client.sent) and now - min(client.sent.values()) > patience
            silent = not client.hidden and now - client.heard > self._silent_s
            if client.fresh and (unconfirmed or silent):
                client.fresh, client.sent = False, {}
                self._forget_wants(name)
        self._clients = {name: c for name, c in self._clients.items() if now - c.heard < self._forget_s}
        silenced = before and not any(client.fresh for client in self._clients.values())
        if silenced:
            # Whoever comes back gets the recent blocks anew.
            self._blocks.clear()
            self._cut.clear()
            self._later.clear()
            self._wants.clear()
        return silenced
