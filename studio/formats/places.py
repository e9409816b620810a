"""Where a file is to lie: whether it may be written there, and the hidden name it has until it is whole."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from studio.timeline.checks import shorten

_NUMBERS = itertools.count()


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
        `.NAME.PROCESS.NUMBER.part` in the same folder, another one with each call: by it one knows what a process
        that was killed left behind.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{next(_NUMBERS)}.part")
