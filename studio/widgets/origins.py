"""A name for each source, so that the widgets of one source find each other in the browser."""

from __future__ import annotations

import uuid
import weakref
from typing import Any

__all__ = ["name_of"]

_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def name_of(source: Any) -> str:
    """The name of a source, the same for as long as it lives.

    Args:
        source: The source.

    Returns:
        A text that no other source has.
    """
    try:
        return _names.setdefault(source, uuid.uuid4().hex)
    except TypeError:  # it cannot be held weakly; then it stands alone
        return uuid.uuid4().hex
