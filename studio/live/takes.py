"""The takes of a session: a tree of named runs, each forked from a block of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

from studio.events import TakeInfo
from studio.live.core import Core
from studio.live.log import TakeLog
from studio.live.starting import (
    check_length,
    check_seconds_of,
    decode_stream,
    encode_blocks,
    pack,
    read_pictures,
    whole_blocks,
)
from studio.live.steering import check_units
from studio.live.take import Take
from studio.timeline import History, Segment, Timeline, check_seed, check_text, check_whole, nearest, shorten
from studio.timeline.past import first_change

MAX_NAME = 80


class Takes(Sequence[TakeInfo]):
    """The takes of a session, in the order in which they began.

    Args:
        core: the session's generator.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    def __len__(self) -> int:
        return len(self._core.takes)

    @overload
    def __getitem__(self, index: int) -> TakeInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TakeInfo]: ...
    def __getitem__(self, index: int | slice) -> TakeInfo | Sequence[TakeInfo]:
        return self._all()[index]

    def __iter__(self) -> Iterator[TakeInfo]:
        return iter(self._all())

    def __repr__(self) -> str:
        return "\n".join(self._lines(None, "")) or "<no takes>"

    def _all(self) -> list[TakeInfo]:
        core = self._core
        with core.changed:
            return [take.info(take is core.take) for take in core.takes.values()]

    def _lines(self, parent: int | None, indent: str) -> Iterator[str]:
        for take in self._all():
            if take.parent == parent:
                fork = f", from block {take.forked_at}" if take.parent is not None else ""
                sign = "*" if take.current else "-"
                yield f"{indent}{sign} {take.name}: {take.blocks} blocks{fork}, seed {take.seed}"
                yield from self._lines(take.number, indent + "  ")

    @property
    def current(self) -> TakeInfo:
        """The take that is shown and made."""
        with self._core.changed:
            return self._core.take.info(True)

    def children(self, take: int | str) -> list[TakeInfo]:
        """The takes that forked from one.

        Args:
            take: its number or name.
        """
        number = self._find(take).number
        return [other for other in self if other.parent == number]

    def number(self, take: int | str) -> int:
        """The number of a take.

        Args:
            take: its number or name.

        Raises:
            ValueError: no such take.
        """
        return self._find(take).number

    def timeline(self, take: int | str) -> Timeline:
        """The timeline of a take.

        Args:
            take: its number or name.
        """
        return self._find(take).history.timeline

    def log(self, take: int | str) -> TakeLog:
        """The event log of a take.

        Args:
            take: its number or name.
        """
        core = self._core
        with core.changed:
            found = self._find(take)
            return TakeLog(found.records, core.describe, found.name)

    def choose(self, take: int | str) -> TakeInfo:
        """Make a take the current one; generating goes on where it ended.

        Args:
            take: its number or name.

        Returns:
            What it is.

        Raises:
            ValueError: no such take.
            RuntimeError: the session is closed.
        """
        self._core.turn_to(self._find(take))
        return self.current

    def fork(
        self,
        at: int,
        *,
        prompt: str | None = None,
        policy: str | None = None,
        sink_policy: str | None = None,
        seed: int | None = None,
        timeline: Timeline | None = None,
        name: str = "",
        take: int | str | None = None,
    ) -> TakeInfo:
        """Begin another take with the first `at` blocks of one, and make it the current one.

        The cache is rebuilt from the kept latents, the same way each time, so that a fork is as deterministic as any
        take. Without anything changed, a fork goes on as its take did where the timeline says a recache at that block.

        Args:
            at: blocks it shares; its first own block.
            prompt: what to see from there on; later segments stay. None leaves the timeline.
            policy: what that switch does to the cache; None for the session's own. Without a prompt, the one in force
                is switched to again.
            sink_policy: whether a recache keeps or rewrites the sink.
            seed: seed of the noise from there on; None for the same.
            timeline: another timeline instead of prompt and policy; it may differ from block `at` on.
            name: its name; "" for one made up.
            take: number or name of the take to fork; None for the current one.

        Returns:
            What the new take is.

        Raises:
            ValueError: a block that was not made, a timeline that differs before it, or another value without sense.
            RuntimeError: the session is closed.
        """
        core = self._core
        with core.changed:
            core.check_open()
            parent = core.take if take is None else self._find(take)
            at = check_whole(at, "at", 0, parent.made, f"the take has {parent.made} blocks")
            line = _forked(parent, at, prompt, policy, sink_policy, timeline)
            check_units(line, core.units, core.config.name)
            _check_future(parent.history.timeline, line, at)
            line = line if seed is None else line.with_seed(check_seed(seed))
            new = parent.fork(core.new_number(), at, line, self._free(name) or core.new_name())
            core.turn(new)
            info = new.info(True)
        core.outbox.deliver()
        return info

    def start_from(
        self,
        source: object,
        *,
        prompt: str | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        name: str = "",
    ) -> TakeInfo:
        """Begin another take with a picture or a clip, and make it the current one; see `Session.start_from`."""
        core = self._core
        with core.changed:
            core.check_open()
            line, vae = core.timeline, core.models.vae
            self._free(name)
        if prompt is not None:
            line = replace(line, segments=(Segment(prompt),), markers=())
        line = line if seed is None else line.with_seed(check_seed(seed))
        frames = read_pictures(source, units=core.units, seconds=check_seconds_of(seconds))
        frames = whole_blocks(frames, core.units)
        check_length(core.units.block_at(len(frames) - 1) + 1, line.length)
        # Encoded before anything changes: this takes a while, and the current take plays on meanwhile.
        stream = vae.stream()
        blocks = [(latents, decode_stream(vae, latents, stream)) for latents in encode_blocks(vae, frames, core.units)]
        with core.changed:
            core.check_open()
            name = self._free(name) or core.new_name()
            new = Take(core.new_number(), core.take.ring.least, line, core.vault, core.archive, name)
            for latents, pixels in blocks:
                new.give(latents, pixels, pack(latents), core.units, core.policy)
            new.stream = stream
            core.turn(new)
            info = new.info(True)
        core.outbox.deliver()
        return info

    def rename(self, take: int | str, name: str) -> TakeInfo:
        """Give a take another name.

        Args:
            take: its number or name.
            name: the new name, not that of another take.

        Raises:
            ValueError: no such take, or a name that is taken or makes no sense.
        """
        core = self._core
        with core.changed:
            found = self._find(take)
            if not name or name != found.name:
                found.name = self._free(name) or found.name
            core.announce_takes()
        core.outbox.deliver()
        return found.info(found is core.take)

    def remove(self, take: int | str) -> None:
        """Forget a take that is not the current one; takes that forked from it stay.

        Args:
            take: its number or name.

        Raises:
            ValueError: no such take, or the current one.
        """
        core = self._core
        with core.changed:
            found = self._find(take)
            if found is core.take:
                raise ValueError(f"{shorten(found.name)} is the current take; choose another one first")
            self._forget(found)
            core.announce_takes()
            # What undo and redo go to may be gone with it.
            core.outbox.post("timeline", core.timeline)
        core.outbox.deliver()

    def replace_current(self, old: int, history: History) -> TakeInfo:
        """Let the current take stand in the place of the one it forked from, which is forgotten.

        Args:
            old: number of that take.
            history: the edits that undo goes over from now on; they end at the current take's timeline.
        """
        core = self._core
        with core.changed:
            found, take = core.takes[old], core.take
            self._forget(found)
            take.name, take.origin, take.history = found.name, found.origin, history
            core.announce_takes()
            core.outbox.post("timeline", core.timeline)
        core.outbox.deliver()
        return self.current

    def _forget(self, take: Take) -> None:
        take.leave(self._core.takes.values())
        del self._core.takes[take.number]

    def _find(self, take: object) -> Take:
        takes = self._core.takes
        if isinstance(take, str):
            for found in takes.values():
                if found.name == take:
                    return found
            near = nearest(take, [found.name for found in takes.values()])
            hint = f'did you mean "{near}"?' if near else f"there are {len(takes)}"
            raise ValueError(f"there is no take {shorten(take)}; {hint}")
        if isinstance(take, bool) or not isinstance(take, int) or take not in takes:
            raise ValueError(f"there is no take {shorten(take)}; their numbers are {', '.join(map(str, takes))}")
        return takes[take]

    def _free(self, name: Any) -> str:
        name = check_text(name, "name", MAX_NAME).strip()
        if name and any(take.name == name for take in self._core.takes.values()):
            raise ValueError(f"there is a take {shorten(name)} already; choose another name")
        return name


def _forked(
    parent: Take, at: int, prompt: str | None, policy: str | None, sink_policy: str | None, timeline: Timeline | None
) -> Timeline:
    line = parent.history.timeline
    if timeline is not None:
        if prompt is not None or policy is not None or sink_policy is not None:
            raise ValueError("`timeline` says prompt and policy itself; leave them out")
        return timeline
    if prompt is None and policy is None and sink_policy is None:
        return line
    here = line.segment_at(at)
    if prompt is None:
        segment = replace(here, start=at, policy=policy, sink_policy=sink_policy, transition=None)
    else:
        segment = Segment(prompt, at, policy=policy, sink_policy=sink_policy)
    return line.put(segment)


def _check_future(before: Timeline, line: Timeline, at: int) -> None:
    if line.length is not None and line.length < at:
        raise ValueError(f"`timeline` must be at least the {at} blocks it shares, got {line.length}; lengthen it")
    first = first_change(before, line.with_seed(before.seed), at)
    if first is not None:
        raise ValueError(
            f"`timeline` must agree on the {at} blocks it shares, but it differs at block {first}; fork there"
        )
