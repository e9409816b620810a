"""A frame source with takes: it keeps every block it drew, and goes on from any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from studio.events import DecodedBlock, TakeInfo
from studio.timeline import History, Segment, Timeline
from tests.widgets.double import Double


@dataclass
class Run:
    """One take."""

    number: int
    name: str
    timeline: Timeline
    parent: int | None = None
    forked_at: int = 0
    blocks: list[DecodedBlock] = field(default_factory=list)


class Runs:
    """The takes of a `Forking`."""

    def __init__(self, owner: Forking):
        self._owner = owner

    def fork(self, at: int, *, take: int | str | None = None) -> TakeInfo:
        return self._owner.fork(at)

    def __iter__(self) -> Iterator[TakeInfo]:
        owner = self._owner
        return iter([owner.info(run) for run in list(owner.runs.values())])

    def choose(self, take: int) -> TakeInfo:
        owner = self._owner
        owner.turn_to(owner.find(take))
        return owner.info(owner.run)

    def rename(self, take: int, name: str) -> TakeInfo:
        owner = self._owner
        owner.find(take).name = name or f"take {take + 1}"
        owner.announce()
        return owner.info(owner.find(take))

    def remove(self, take: int) -> None:
        owner = self._owner
        if owner.find(take) is owner.run:
            raise ValueError("this is the current take; choose another one first")
        del owner.runs[take]
        owner.announce()


class Forking(Double):
    """A `Double` that keeps what it drew, in takes."""

    def __init__(self, *arguments: Any, **options: Any):
        self.runs: dict[int, Run] = {}
        super().__init__(*arguments, **{**options, "threaded": False})
        self.run = self.runs[0] = Run(0, "take 1", self.timeline)
        if options.get("threaded", True):
            self._start()

    @property
    def takes(self) -> Runs:
        return Runs(self)

    def block(self, index: int, take: int | None = None) -> DecodedBlock | None:
        run = self.run if take is None else self.runs.get(take)
        return run.blocks[index] if run is not None and 0 <= index < len(run.blocks) else None

    def make(self) -> DecodedBlock:
        run = self.run
        block = super().make()
        if run is self.run and block.index == len(run.blocks):
            run.blocks.append(block)
            self.announce()
        return block

    def restart(self, seed: int | None = None) -> None:
        with self._wake:
            self.seed = self.seed if seed is None else seed
            number = max(self.runs) + 1
            self.turn_to(Run(number, f"take {number + 1}", self.timeline.with_seed(self.seed)))

    def fork(
        self, at: int, *, prompt: str | None = None, policy: str | None = None, seed: int | None = None, name: str = ""
    ) -> TakeInfo:
        parent = self.run
        if not 0 <= at <= len(parent.blocks):
            raise ValueError(f"`at` must be a block that was made, got {at}; the take has {len(parent.blocks)} blocks")
        line = self.timeline if prompt is None else self.timeline.put(Segment(prompt, at, policy=policy))
        number = max(self.runs) + 1
        run = Run(number, name or f"take {number + 1}", line.with_seed(self.seed if seed is None else seed))
        run.parent, run.forked_at = parent.number, at
        run.blocks = [replace(block, take=number) for block in parent.blocks[:at]]
        self.turn_to(run)
        return self.info(run)

    # Behind it

    def info(self, run: Run) -> TakeInfo:
        return TakeInfo(
            number=run.number,
            name=run.name,
            parent=run.parent,
            forked_at=run.forked_at,
            blocks=len(run.blocks),
            seed=run.timeline.seed,
            current=run is self.run,
        )

    def find(self, take: int) -> Run:
        if take not in self.runs:
            raise ValueError(f"there is no take {take}")
        return self.runs[take]

    def announce(self) -> None:
        self._emit("takes", tuple(self.takes))

    def turn_to(self, run: Run) -> None:
        with self._wake:
            self.run.timeline, self.runs[run.number] = self.timeline, run
            self.take, self.seed, self.run, self.history = run.number, run.timeline.seed, run, History(run.timeline)
            self._next = len(run.blocks)
            self._pending.clear()
            start = run.timeline.start_frame(run.forked_at)
            for consumer in self.consumers:
                consumer.frame = start
            self._emit("timeline", self.timeline)
            self._emit("restart", run.number)
            self.announce()
            self._wake.notify_all()
