"""Reading once more what a source made while nobody watched, in a thread of its own; the pages hear how it goes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Again"]

Task = Callable[[], Any]


class Again:
    """Asks a source to make blocks once more and to read them; what it reads comes to those who watch.

    Args:
        source: What made the blocks.
        post: Sends a message to the pages.
    """

    def __init__(self, source: Any, post: Callable[[dict[str, Any]], None]) -> None:
        self._source, self._post = source, post
        self._lock = threading.Lock()
        self._busy = False
        self._look: Task | None = None
        self._error: str | None = None

    @property
    def possible(self) -> bool:
        """Whether the source can make its blocks once more."""
        return hasattr(self._source, "reread")

    @property
    def pointed(self) -> bool:
        """Whether a point of a block that is there already can be read."""
        return hasattr(self._source, "look_back")

    def describe(self) -> dict[str, Any]:
        """Whether something is being read, and what went wrong the last time."""
        return {"busy": self._busy, "error": self._error}

    def reread(self, residue: bool, block: int | None = None) -> None:
        """Read what was missed.

        Args:
            residue: Whether the residue is measured as well.
            block: This block alone; `None` for all.

        Raises:
            RuntimeError: If something is being read already.
            ValueError: If the source cannot make its blocks once more.
        """
        if not self.possible:
            raise ValueError(f"`{self._source.name}` cannot make its blocks once more; open a live session")
        options = {} if block is None else {"block": block}
        if not self._begin(lambda: self._source.reread(residue=residue, **options).close()):
            raise RuntimeError("the take is being read already; wait for it")

    def look_back(self, block: int, frame: int, row: int, column: int) -> None:
        """Read where a point of a block looks; where something is being read, afterwards, and the newest point counts.

        Args:
            block: The block.
            frame: Latent frame within the block, from 0.
            row: Token row.
            column: Token column.
        """

        def look() -> Any:
            return self._source.look_back(block, frame, row, column)

        with self._lock:
            self._look = look
        self._begin(None)

    def _begin(self, task: Task | None) -> bool:
        with self._lock:
            if self._busy:
                return False
            self._busy, self._error = True, None
        self._tell()
        threading.Thread(target=self._work, args=(task,), name="studio-reread", daemon=True).start()
        return True

    def _work(self, task: Task | None) -> None:
        while True:
            error = None
            try:
                if task is not None:
                    task()
            except Exception as failure:
                error = str(failure) or type(failure).__name__
            with self._lock:
                self._error = error or self._error
                task, self._look = self._look, None
                if task is None:
                    self._busy = False
                    break
        self._tell()

    def _tell(self) -> None:
        self._post({"type": "again", **self.describe()})
