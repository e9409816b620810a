"""What happens to an older widget when the notebook cell that showed it runs again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Replacing", "running_cell"]


def running_cell() -> tuple[str, str] | None:
    """The notebook cell being run.

    Returns:
        The cell's id and the id of this run of it; None outside a notebook, or where the front end does not tell.
    """
    try:
        from IPython.core.getipython import get_ipython

        parent = get_ipython().kernel.get_parent()  # type: ignore[union-attr]
        cell, run = parent["metadata"]["cellId"], parent["header"]["msg_id"]
    except (ImportError, AttributeError, KeyError, TypeError):
        return None
    return (cell, run) if isinstance(cell, str) and isinstance(run, str) else None


class Replacing:
    """Closes the widgets that an earlier run of the same cell made, and the sources that nobody can reach any more."""

    def __init__(self) -> None:
        self._shown: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}

    def add(self, widget: Any) -> None:
        """Note a new widget.

        Args:
            widget: Has `source` and `close()`.
        """
        where = running_cell()
        if where is None:
            return
        cell, run = where
        earlier = self._shown.get(cell, [])
        self._shown[cell] = [(r, ref) for r, ref in earlier if r == run] + [(run, weakref.ref(widget))]
        orphans = []
        for widget_run, ref in earlier:
            old = ref()
            if old is not None and widget_run != run:
                orphans.append(old.source)
                old.close()
        if orphans:
            _after_cell(lambda: self._close_orphans(orphans))

    def _close_orphans(self, sources: list[Any]) -> None:
        # A source that the notebook still has a name for, or still shows, is somebody's: it stays.
        held = {id(widget.source) for shown in self._shown.values() for _, ref in shown if (widget := ref()) is not None}
        held |= {id(value) for value in _notebook_values()}
        for source in sources:
            close = getattr(source, "close", None)
            if id(source) not in held and callable(close):
                close()


def _notebook_values() -> list[Any]:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return list(shell.user_ns.values()) if shell is not None else []


def _after_cell(action: Callable[[], None]) -> None:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        return

    def once(*_: object) -> None:
        shell.events.unregister("post_run_cell", once)
        action()

    shell.events.register("post_run_cell", once)
