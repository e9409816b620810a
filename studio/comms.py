"""Keeps the browser's messages on the subshell they were sent to, so that they arrive while a cell runs."""

from __future__ import annotations

from typing import Any

__all__ = ["keep_subshell"]


def keep_subshell(comm: Any) -> bool:
    """Stop ipykernel from moving a widget's incoming messages to another shell.

    ipykernel 7.4.0 hands a message from the browser to whichever shell last published on the same comm. As soon as a
    cell sends a frame that is the main shell, which is busy until the cell ends: a prompt typed meanwhile would wait.

    Args:
        comm: The widget's comm, of any kind; None is allowed.

    Returns:
        Whether the comm needed it.
    """
    if not hasattr(comm, "_reply_subshell_for"):
        return False
    comm._reply_subshell_for = _as_sent
    return True


def _as_sent(data: Any, subshell_id: str | None) -> str | None:
    return subshell_id
