"""Who shows a film, for rooms that make one and know no screen: the package's front door says it when it opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["player_of", "show_by"]

_makers: list[Callable[[Any], Any]] = []


def show_by(maker: Callable[[Any], Any]) -> None:
    """Say who shows films from now on.

    Args:
        maker: Makes a player widget of a source, as `studio.Studio` takes one.
    """
    _makers[:] = [maker]


def player_of(source: Any) -> Any:
    """A player widget of a source.

    Args:
        source: As `studio.Studio` takes one.

    Returns:
        The widget.

    Raises:
        RuntimeError: If nobody said who shows films, as in a program that took the package apart.
    """
    if not _makers:
        raise RuntimeError("nobody shows films here; `import studio`, or name a maker by `studio.screens.show_by`")
    return _makers[0](source)
