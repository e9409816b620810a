"""Small pictures of what was generated, one a block, made in a thread of their own when a page asks for them."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from studio.events import DecodedBlock
from studio.widgets.codec import encode_frames

__all__ = ["HEIGHT", "MAX_ASKED", "Thumbs", "small"]

HEIGHT = 64
QUALITY = 80
KEPT = 4000
MAX_ASKED = 64
PATIENCE_S = 20.0

_Key = tuple[int, int]


class Thumbs:
    """Makes and keeps small pictures of blocks.

    Args:
        block: Gives a block of the current take, or None where there is none.
        send: Sends a message with its buffers; must not block.
        note: Keeps a text about something that went wrong.
    """

    def __init__(
        self,
        block: Callable[[int], DecodedBlock | None],
        send: Callable[[dict[str, Any], list[bytes]], None],
        note: Callable[[str], None],
    ) -> None:
        self._block, self._send, self._note = block, send, note
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._asked: deque[_Key] = deque(maxlen=4 * MAX_ASKED)
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, take: int, blocks: Sequence[int]) -> None:
        """Send the pictures of some blocks soon; those that do not exist are passed over.

        Args:
            take: The take that the page shows.
            blocks: At most `MAX_ASKED` block numbers.
        """
        with self._wake:
            if self._closed:
                return
            self._asked.extend((take, block) for block in blocks[:MAX_ASKED])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="studio-widget-thumbs", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._asked.clear()
            self._kept.clear()
            thread = self._thread
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._asked and not self._closed:
                    self._wake.wait(PATIENCE_S)
                if not self._asked:
                    self._thread = None
                    return
                take = self._asked[0][0]
                keys = [self._asked.popleft() for _ in range(min(8, len(self._asked))) if self._asked[0][0] == take]
            try:
                self._deliver(take, [block for _, block in keys])
            except Exception as error:
                self._note(f"a small picture could not be made: {type(error).__name__}: {error}")

    def _deliver(self, take: int, blocks: list[int]) -> None:
        found = {block: picture for block in blocks if (picture := self._picture(take, block)) is not None}
        if not found:
            return
        sizes = [len(picture) for picture in found.values()]
        message = {"type": "thumbs", "take": take, "blocks": list(found), "sizes": sizes}
        self._send(message, [b"".join(found.values())])

    def _picture(self, take: int, block: int) -> bytes | None:
        key = (take, block)
        with self._wake:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        source = self._block(block)
        if source is None or source.take != take:
            return None
        picture = encode_frames(small(source.frames[0])[None], QUALITY)[0]
        with self._wake:
            self._kept[key] = picture
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return picture


def small(frame: np.ndarray, height: int = HEIGHT) -> np.ndarray:
    """Shrink a frame by the mean over squares of pixels.

    Args:
        frame: uint8 `[H, W, 3]`.
        height: Height to come close to from above, in pixels; a frame below twice that height stays as it is.

    Returns:
        uint8 `[h, w, 3]`.
    """
    by = max(1, min(frame.shape[0] // height, frame.shape[1]))
    if by == 1:
        return frame
    rows, columns = frame.shape[0] // by, frame.shape[1] // by
    cut = frame[: rows * by, : columns * by].reshape(rows, by, columns, by, 3)
    return cut.mean(axis=(1, 3)).round().astype(np.uint8)
