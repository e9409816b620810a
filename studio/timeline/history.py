"""Undo and redo without limit."""

from __future__ import annotations

from dataclasses import dataclass

from studio.timeline.checks import shorten
from studio.timeline.operations import Operation, Replace
from studio.timeline.value import Timeline


@dataclass(frozen=True)
class Step:
    """One edit that was made.

    Args:
        operation: the edit.
        before: the timeline before it.
        after: the timeline after it.
    """

    operation: Operation
    before: Timeline
    after: Timeline


class History:
    """The edits of a timeline: what was done can be undone, and what was undone done again.

    Timelines are values that share their parts, so that a step costs little more than what it changed.

    Args:
        timeline: where it begins.

    Attributes:
        timeline: the timeline now.
        version: raised by every change, undo and redo included; an editor sends the one it saw along with an edit.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline, self.version = timeline, 0
        self._done: list[Step] = []
        self._undone: list[Step] = []

    @property
    def done(self) -> tuple[Operation, ...]:
        """Operations that `undo` takes back, the latest last."""
        return tuple(step.operation for step in self._done)

    @property
    def undone(self) -> tuple[Operation, ...]:
        """Operations that `redo` does again, the next one last."""
        return tuple(step.operation for step in self._undone)

    def copy(self) -> History:
        """Another history that goes on from here by itself."""
        other = History(self.timeline)
        other.version, other._done, other._undone = self.version, [*self._done], [*self._undone]
        return other

    def apply(self, operation: Operation) -> Timeline:
        """Make an edit; one that changes nothing is no step.

        Args:
            operation: the edit.

        Returns:
            The edited timeline.

        Raises:
            ValueError: it makes no sense there; nothing has changed then.
        """
        if not isinstance(operation, Operation):
            raise ValueError(f"`operation` must be an Operation, got {shorten(operation)}; see studio.timeline")
        self.record(operation, operation.apply(self.timeline))
        return self.timeline

    def record(self, operation: Operation | None, after: Timeline) -> None:
        """Take in an edit that was made elsewhere.

        Args:
            operation: the edit; None for one that is known by its result alone.
            after: the timeline after it.
        """
        if after == self.timeline:
            return
        self._done.append(Step(operation or Replace(after), self.timeline, after))
        self._undone.clear()
        self._go(after)

    def undo(self, kept: Timeline | None = None) -> Timeline:
        """Take the last edit back.

        Args:
            kept: the timeline from then on, where what was made under the edit stays; None for the one before the edit.

        Raises:
            RuntimeError: there is none.
        """
        after = self.undo_target()
        self._undone.append(self._done.pop())
        return self._go(kept or after)

    def redo(self, kept: Timeline | None = None) -> Timeline:
        """Do the edit again that was undone last.

        Args:
            kept: the timeline from then on, where what was made without the edit stays; None for the one after it.

        Raises:
            RuntimeError: there is none.
        """
        after = self.redo_target()
        self._done.append(self._undone.pop())
        return self._go(kept or after)

    def undo_target(self) -> Timeline:
        """The timeline that `undo` would give; raises as it does."""
        if not self._done:
            raise RuntimeError("there is nothing to undo")
        return self._done[-1].before

    def redo_target(self) -> Timeline:
        """The timeline that `redo` would give; raises as it does."""
        if not self._undone:
            raise RuntimeError("there is nothing to redo")
        return self._undone[-1].after

    def _go(self, timeline: Timeline) -> Timeline:
        self.timeline, self.version = timeline, self.version + 1
        return timeline
