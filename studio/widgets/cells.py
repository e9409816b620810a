"""What happens to an older widget when the notebook cell that showed it runs again."""

from __future__ import annotations

import weakref
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
    """Closes the widgets that an earlier run of the same cell made."""

    def __init__(self) -> None:
        self._shown: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}

    def add(self, widget: Any) -> None:
        """Note a new widget.

        Args:
            widget: Has `close()`.
        """
        where = running_cell()
        if where is None:
            return
        cell, run = where
        earlier = self._shown.get(cell, [])
        self._shown[cell] = [(r, ref) for r, ref in earlier if r == run] + [(run, weakref.ref(widget))]
        for widget_run, ref in earlier:
            old = ref()
            if old is not None and widget_run != run:
                old.close()
