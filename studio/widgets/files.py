"""Files between a page and a source: a picture or a clip to start from comes in, exports are written and told of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studio.widgets.source import ExportLike, ExportSource, StartSource

__all__ = ["MAX_UPLOAD", "Exports", "Uploads"]

MAX_UPLOAD = 256 * 2**20
MAX_PARTS = 4096
TELL_S = 0.2


class Uploads:
    """Puts together the files that pages send in parts, and starts from them.

    Args:
        source: What makes the frames; only one that can start from a picture is of use.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._parts: dict[str, list[bytes]] = {}

    @property
    def possible(self) -> bool:
        """Whether the source can start from a picture."""
        return isinstance(self._source, StartSource)

    def take(self, client: str, fields: Mapping[str, Any], data: bytes) -> Callable[[], None] | None:
        """Take in a part.

        Args:
            client: The page that sends it.
            fields: "part" from 0, "parts" in all, the "name" of the file and the "prompt" to go on under.
            data: The part's bytes.

        Returns:
            After the last part what starts from the file, which takes a while; else None.

        Raises:
            ValueError: If the source cannot start from a file, a part is missing, or the file is too large.
        """
        if not self.possible:
            raise ValueError(f"`{self._source.name}` cannot start from a picture; open a live session")
        part, parts = fields["part"], fields["parts"]
        if not 0 <= part < parts <= MAX_PARTS:
            raise ValueError(f"`part` must be one of `parts`, at most {MAX_PARTS}, got {part} of {parts}")
        with self._lock:
            held = self._parts.setdefault(client, [])
            if part == 0:
                held.clear()
            whole = len(held) == part
            if whole:
                held.append(bytes(data))
            if not whole or sum(map(len, held)) > MAX_UPLOAD:
                del self._parts[client]
                raise ValueError(
                    f"a file has at most {MAX_UPLOAD >> 20} MiB; cut the clip first"
                    if whole
                    else f"part {part} came before part {len(held)}; drop the file once more"
                )
            if part + 1 < parts:
                return None
            file = b"".join(self._parts.pop(client))
        return lambda: self._source.start_from(file, prompt=fields["prompt"])

    def forget(self, client: str) -> None:
        """Forget what a page has sent so far."""
        with self._lock:
            self._parts.pop(client, None)


class Exports:
    """Writes what was made to a file, one at a time, and tells the pages how far it is.

    Args:
        source: What makes the frames.
        post: Sends a message.
    """

    def __init__(self, source: Any, post: Callable[[dict[str, Any]], None]) -> None:
        self._source, self._post = source, post
        self._export: ExportLike | None = None
        self._told = 0.0

    @property
    def possible(self) -> bool:
        """Whether the source can be exported."""
        return isinstance(self._source, ExportSource)

    def begin(self, fields: Mapping[str, Any]) -> None:
        """Begin an export.

        Args:
            fields: "path", "format" or None, first frame "start", "stop" or None, and "force", whether it may replace
                another file.

        Raises:
            OSError: If there is such a file already, or no such folder.
            RuntimeError: If one is under way.
            ValueError: If the source cannot be exported, or a value makes no sense.
        """
        if not self.possible:
            raise ValueError(f"`{self._source.name}` cannot be exported; open a live session")
        if self._export is not None and self._export.state == "running":
            raise RuntimeError("an export is under way; wait for it, or cancel it")
        if not fields["path"].strip():
            raise ValueError("the export needs a name; as fox.mp4")
        export = self._source.export(
            Path(fields["path"].strip()).expanduser(),
            format=fields["format"],
            start=fields["start"],
            stop=fields["stop"],
            force=fields["force"],
        )
        self._export = export
        export.changed = lambda: self._tell(export)
        self._tell(export, at_once=True)

    def cancel(self) -> None:
        """Give up the export under way, if there is one."""
        if self._export is not None:
            self._export.cancel()

    def describe(self) -> dict[str, Any] | None:
        """The last export as a page shows it, or None."""
        export = self._export
        if export is None:
            return None
        done, total = export.progress
        return {
            "path": str(export.path),
            "state": export.state,
            "done": done,
            "total": total,
            "error": export.error,
        }

    def _tell(self, export: ExportLike, at_once: bool = False) -> None:
        now = time.monotonic()
        if export is not self._export or (export.state == "running" and not at_once and now - self._told < TELL_S):
            return
        self._told = now
        self._post({"type": "export", "export": self.describe()})
