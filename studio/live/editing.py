"""Edits of a session's timeline: the future at once, the past by keeping it, forking it or making it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studio.live.core import Core
from studio.live.steering import check_units
from studio.live.takes import Takes
from studio.timeline import Operation, Timeline, shorten
from studio.timeline.messages import describe, describe_history
from studio.timeline.operations import from_dict
from studio.timeline.past import CHOICES, PastEdit, check_past, first_change, keep_past
from studio.timeline.plain import check_keys


class Editor:
    """Applies operations to the timeline of a session's current take, with undo and redo.

    Args:
        core: the session's generator.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def version(self) -> int:
        """Raised by every change of the current take's timeline."""
        return self._core.take.history.version

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return bool(self._core.take.history.done)

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        return bool(self._core.take.history.undone)

    def apply(
        self, operation: Operation | dict[str, Any], *, past: str | None = None, version: int | None = None
    ) -> Timeline:
        """Make an edit.

        Args:
            operation: the edit, or the dictionary that stands for it.
            past: what to do where it changes blocks that have begun: "keep" edits only what comes after them, "fork"
                begins another take at the first block it changes, "regenerate" does so in place of this take. None
                refuses such an edit.
            version: the version that the edit was made for; another one is refused. None for whatever is there.

        Returns:
            The timeline in force now.

        Raises:
            PastEdit: it changes the past and `past` does not say what to do.
            ValueError: it makes no sense there.
            RuntimeError: the session is closed.
        """
        if isinstance(operation, dict):
            operation = from_dict(operation)
        if not isinstance(operation, Operation):
            raise ValueError(f"`operation` must be an Operation, got {shorten(operation)}; see studio.timeline")
        chosen = operation
        return self._go(lambda: chosen.apply(self._core.timeline), chosen, None, past, version)

    def undo(self, *, past: str | None = None) -> Timeline:
        """Take the last edit back, live switches included; see `apply` for `past` and what it raises.

        Raises:
            RuntimeError: there is nothing to undo, or the session is closed.
        """
        history = self._core.take.history
        return self._go(history.undo_target, None, history.undo, past, None)

    def redo(self, *, past: str | None = None) -> Timeline:
        """Do the edit again that was undone last; see `apply` for `past` and what it raises.

        Raises:
            RuntimeError: there is nothing to redo, or the session is closed.
        """
        history = self._core.take.history
        return self._go(history.redo_target, None, history.redo, past, None)

    def describe(self) -> dict[str, Any]:
        """The timeline as a screen shows it: see `describe`, `describe_history` in `studio.timeline.messages`."""
        core = self._core
        with core.changed:
            take = core.take
            state = describe(take.history.timeline, take.begun)
            return {**state, "history": describe_history(take.history), "take": take.number}

    def obey(self, message: Any) -> dict[str, Any]:
        """Do what a message asks for; for screens, which want an answer to whatever they send.

        Args:
            message: {"do": "apply", "operation": {...}, "version": 3, "past": "fork"}, {"do": "undo"} or
                {"do": "redo"}; version and past may be left out.

        Returns:
            {"error": None, "past": None, "version": 4}; where it was refused, "error" is a sentence for people, and
            where it would change the past, "past" says from which "block", how many have "begun", and the "choices".
        """
        reply: dict[str, Any] = {"error": None, "past": None}
        try:
            self._obey(message)
        except PastEdit as error:
            reply["error"] = str(error)
            reply["past"] = {"block": error.block, "begun": error.begun, "choices": list(error.choices)}
        except (ValueError, RuntimeError) as error:
            reply["error"] = str(error)
        return {**reply, "version": self.version}

    def _obey(self, message: Any) -> None:
        check_keys(message, ("do", "operation", "version", "past"), "message")
        do, past = message.get("do"), message.get("past")
        if do == "apply":
            self.apply(from_dict(message.get("operation")), past=past, version=message.get("version"))
        elif do in ("undo", "redo"):
            (self.undo if do == "undo" else self.redo)(past=past)
        else:
            raise ValueError(f"`do` must be one of apply, undo, redo, got {shorten(do)}")

    def _go(
        self,
        target: Callable[[], Timeline],
        operation: Operation | None,
        step: Callable[[], Timeline] | None,
        past: str | None,
        version: int | None,
    ) -> Timeline:
        if past is not None and past not in CHOICES:
            raise ValueError(f"`past` must be one of {', '.join(CHOICES)}, got {shorten(past)}; or leave it out")
        core = self._core
        with core.changed:
            core.check_open()
            if version is not None and version != self.version:
                raise ValueError("the timeline has changed meanwhile; look at it and try again")
            before, begun, number = core.timeline, core.take.begun, core.take.number
            after = check_units(target(), core.units, core.config.name)
            first = first_change(before, after, begun)
            if first is None:
                core.take_over(after, operation, step)
            elif past == "keep":
                core.take_over(keep_past(before, after, begun), operation)
            elif past is None:
                check_past(before, after, begun)
            else:
                first = min(first, core.take.made)
        core.outbox.deliver()
        if first is not None and past in ("fork", "regenerate"):
            takes = Takes(core)
            takes.fork(first, timeline=after, take=number)
            if past == "regenerate":
                takes.replace_current(number)
        return core.timeline
