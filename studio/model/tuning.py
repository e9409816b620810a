"""Equal ways to compute something, timed on this machine once, with the choice kept on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from studio.model.embeddings import cache_folder
from studio.writing import written

__all__ = ["Choices", "kept_choices", "seconds_of"]

WARM, TIMED = 2, 3


class Choices:
    """Which way is the fastest, by what is computed.

    Args:
        path: Where choices are kept between runs; `None` to forget them. A file that cannot be read is made anew.
        clock: Times a run in seconds; for tests.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[Callable[[], Any]], float] | None = None) -> None:
        self._path, self._clock = path, clock or seconds_of
        self._made: dict[str, dict[str, float]] = {}
        if path is not None:
            try:
                made = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                made = {}
            self._made = made if isinstance(made, dict) else {}

    @property
    def timings(self) -> Mapping[str, Mapping[str, float]]:
        """Milliseconds of each way, by what is computed; a way that failed is not among them."""
        return self._made

    def known(self, what: str, among: tuple[str, ...]) -> str | None:
        """The fastest way, or `None` where it was not timed.

        Args:
            what: Says what is computed, sizes, type and device included.
            among: The ways there are.
        """
        timed = self._made.get(what)
        told = timed.items() if isinstance(timed, dict) else ()
        usable = {way: ms for way, ms in told if way in among and isinstance(ms, (int, float))}
        return min(usable, key=lambda way: usable[way]) if usable else None

    def choose(self, what: str, ways: Mapping[str, Callable[[], Any]]) -> str:
        """Time each way unless that was done before.

        Args:
            what: As for `known`.
            ways: Name to what computes it; the first is taken if all fail.

        Returns:
            The fastest.
        """
        found = self.known(what, tuple(ways))
        if found is None:
            timed = {name: round(1000 * s, 4) for name, run in ways.items() if (s := self._timed(run)) is not None}
            self._made[what] = timed
            self._keep()
            found = min(timed, key=lambda way: timed[way]) if timed else next(iter(ways))
        return found

    def _timed(self, run: Callable[[], Any]) -> float | None:
        try:
            return self._clock(run)
        except RuntimeError:  # No kernel for it, or not enough memory.
            return None

    def _keep(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with written(self._path) as aside:
                aside.write_text(json.dumps(self._made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        except OSError:
            self._path = None  # A folder that cannot be written to costs a second at the next start, no more.


def kept_choices() -> Choices:
    """The choices of this machine, in the studio's cache folder."""
    return Choices(cache_folder() / "fastest.json")


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds of a run after warming up, the shortest of a few; a GPU is waited for.

    Args:
        run: What is timed.
    """
    for _ in range(WARM):
        run()
    spans = []
    for _ in range(TIMED):
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        spans.append(time.perf_counter() - started)
    return min(spans)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
