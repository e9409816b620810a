"""Edits of a session's timeline: the future at once, the past by keeping it, forking it or making it again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from studio.live.core import Core
from studio.live.steering import check_units
from studio.live.take import Take
from studio.live.takes import Takes
from studio.timeline import History, Operation, Timeline, shorten
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

    def __repr__(self) -> str:
        history = self._core.take.history
        return f"<Editor of take {self._core.take.number}: {len(history.done)} edits, {len(history.undone)} undone>"

    @property
    def version(self) -> int:
        """Raised by every change of the current take's timeline."""
        return self._core.take.history.version

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        take = self._core.take
        return bool(take.history.done) or self._back(take) is not None

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        take = self._core.take
        return bool(take.history.undone) or self._ahead(take) is not None

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
        return self._go(lambda history: chosen.apply(history.timeline), chosen, None, past, version)

    def undo(self, *, past: str | None = None) -> Timeline:
        """Take the last edit back, live switches included; see `apply` for `past` and what it raises.

        A fork without an edit of its own goes back to the take that it was forked from, which stands as it was left;
        the fork stays in the tree, and `redo` goes to it again. Where undo itself forks, the fork goes on with the
        edits before, and `redo` goes back to the take that had the edit. Where it keeps the past, the edit is taken
        back for what comes; `redo` brings it back.

        Raises:
            RuntimeError: there is nothing to undo, or the session is closed.
        """
        core = self._core
        with core.changed:
            fork = core.take
            back = None if fork.history.done else self._back(fork)
            if back is not None:
                core.check_open()
                back.left = (fork.number, _steps(back))
                core.turn(back)
        if back is None:
            return self._go(History.undo_target, None, History.undo, past, None)
        core.outbox.deliver()
        return core.timeline

    def redo(self, *, past: str | None = None) -> Timeline:
        """Do the edit again that was undone last; see `apply` for `past` and what it raises, `undo` for forks.

        Raises:
            RuntimeError: there is nothing to redo, or the session is closed.
        """
        core = self._core
        with core.changed:
            ahead = self._ahead(core.take)
            if ahead is not None:
                core.turn(ahead)
        if ahead is None:
            return self._go(History.redo_target, None, History.redo, past, None)
        core.outbox.deliver()
        return core.timeline

    def _back(self, take: Take) -> Take | None:
        """The take that undo goes back to from a fork without an edit of its own."""
        return None if take.origin is None else self._core.takes.get(take.origin)

    def _ahead(self, take: Take) -> Take | None:
        """The take that redo goes to: undo has left it, and no edit was taken back or made since."""
        if take.left is None or _steps(take) != take.left[1]:
            return None
        return self._core.takes.get(take.left[0])

    def describe(self) -> dict[str, Any]:
        """The timeline as a screen shows it: see `describe`, `describe_history` in `studio.timeline.messages`."""
        core = self._core
        with core.changed:
            take = core.take
            state = describe(take.history.timeline, take.begun)
            forked, ahead = self._back(take) is not None, self._ahead(take) is not None
            history = describe_history(take.history, forked=forked, ahead=ahead)
            return {**state, "history": history, "take": take.number}

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
        target: Callable[[History], Timeline],
        operation: Operation | None,
        step: Callable[..., Timeline] | None,
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
            take = core.take
            before, begun, history = core.timeline, take.begun, take.history
            after = check_units(target(history), core.units, core.config.name)
            first = first_change(before, after, begun)
            if first is None or past == "keep":
                line = after if first is None else keep_past(before, after, begun)
                go = None if step is None else partial(step, history, line)
                core.take_over(line, operation, go)
                if go is not None and line == before:
                    # Where the past is kept, a step may change nothing any more; the one after it is to be reached.
                    core.outbox.post("timeline", go())
            elif past is None:
                check_past(before, after, begun)
            else:
                first = min(first, take.made)
        core.outbox.deliver()
        if first is not None and past in ("fork", "regenerate"):
            takes = Takes(core)
            fork = takes.fork(first, timeline=after, take=take.number)
            if past == "regenerate":
                takes.replace_current(take.number, _continued(history, operation, step, after))
            elif step is not None:
                self._carry_on(take, fork.number, _continued(history, None, step, after), step is History.undo)
        return core.timeline

    def _carry_on(self, take: Take, number: int, history: History, undone: bool) -> None:
        """Let undo and redo go on in a fork that one of them has made, with the steps of the take it came from."""
        core = self._core
        with core.changed:
            fork = core.takes.get(number)
            if fork is None or fork.history.version:
                return  # another thread was faster
            fork.history, fork.origin = history, take.origin
            if undone:
                # What was undone stands in that take as it was made; redo goes back to it rather than make it again.
                fork.left = (take.number, _steps(fork))
            core.outbox.post("timeline", core.timeline)
        core.outbox.deliver()


def _steps(take: Take) -> tuple[object, object]:
    return take.history.done, take.history.undone


def _continued(
    history: History, operation: Operation | None, step: Callable[..., Timeline] | None, after: Timeline
) -> History:
    """The edits of a take that is made again: those that it had, and the one that asked for it."""
    other = history.copy()
    if step is None:
        other.record(operation, after)
    else:
        step(other)
    return other
