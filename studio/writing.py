"""Files that appear whole or not at all: where one may lie, and the hidden name it has until then."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.timeline.checks import shorten


def check_place(path: Path, *, force: bool, remedy: str) -> Path:
    """Check that a file may be written where it is to lie.

    Args:
        path: the file.
        force: whether it may replace another one.
        remedy: how a caller lets it replace one.

    Returns:
        The path.

    Raises:
        FileExistsError: it exists, and `force` is not set; or it is a folder.
        FileNotFoundError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {shorten(str(path.parent))}; create it first")
    if force and path.is_dir():
        raise FileExistsError(f"{shorten(str(path))} is a folder; name a file in it")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{shorten(str(path))} exists; name another file, or {remedy}")
    return path


def aside_of(path: Path) -> Path:
    """A hidden name beside a file that nobody else writes to, for what is to appear under its name when it is whole.

    Args:
        path: the file.

    Returns:
        `.NAME.PROCESS.XXXXXXXX.part` in the same folder, another one with each call, on whatever machine: by it one
        knows what a process that was killed left behind.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Inside, a file is written under a hidden name; it takes its own, and another's place, when all went well.

    Args:
        path: the file.

    Yields:
        Where to write it. After an error nothing is left of it, and what was there before stays.
    """
    aside = aside_of(path)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
