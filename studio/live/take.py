"""A take: one run of a timeline, with everything that was made in it; takes that fork share what came before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from studio.events import DecodedBlock, Switch, TakeInfo
from studio.live.archive import Archive, Packed
from studio.live.engine import Engine, Made, Order, digest_of
from studio.live.log import BlockRecord, Given
from studio.live.meter import Meter
from studio.live.orders import order_at
from studio.live.ring import Ring
from studio.live.vault import KeptTensor, Reel, Vault
from studio.shapes import VideoShape
from studio.timeline import History, Timeline

# What a take that is not the current one may keep of its decoder; beyond that it is decoded again, which takes seconds.
RESTING = 256 * 2**20


class Take:
    """What was begun and made in one run. Its owner's lock guards it.

    Args:
        number: number of the take.
        least: recent blocks whose frames are kept whatever they weigh.
        timeline: its prompts.
        vault: keeps its latents.
        archive: keeps its frames.
        name: its name.

    Attributes:
        parent: number of the take it forked from, or None.
        rests: how often another take was turned to; what was under way before belongs to nobody.
        origin: number of the take that undo goes back to when no edit is left to take back, or None.
        left: the take that undo came from, and the steps of `history` then, both ways; None where there was none.
        forked_at: its first block that its parent does not have.
        begun: blocks whose prompt is settled; edits before that block come too late.
        revocable: whether the block under way may begin again under another prompt.
        revoked: whether it is to.
        hurried: the block that the last live switch begins with.
        records: the event log.
        history: its timeline, with all edits.
        meter: how fast it goes.
        next_pull: the block that a new loop over the frames begins with.
        latency: seconds that the last live switch took.
        engine: what makes the blocks; None before the first, and after an error.
        stream: the decoder's stream, which the block under way goes on with; None where it is to be rebuilt.
        resumed: whether the engine was rebuilt and has made nothing since.
        ring: frames of the recent blocks.
    """

    def __init__(
        self, number: int, least: int, timeline: Timeline, vault: Vault, archive: Archive, name: str = ""
    ) -> None:
        self.number, self.name, self.begun, self.next_pull = number, name or f"take {number + 1}", 0, 0
        self.parent: int | None = None
        self.rests = 0
        self.origin: int | None = None
        self.left: tuple[int, tuple[object, object]] | None = None
        self.forked_at = 0
        self.records: list[BlockRecord] = []
        self.history = History(timeline)
        self.meter, self.ring = Meter(), Ring(least)
        self.latency: float | None = None
        self.engine: Engine | None = None
        self.stream: Any = None
        self.resumed = self.revocable = self.revoked = False
        self.hurried: int | None = None
        self._vault, self._archive = vault, archive
        self._latents: list[KeptTensor] = []
        self._packed: dict[int, Packed] = {}
        self._pending: dict[int, tuple[Switch, float | None]] = {}
        self._order = Order(prompt="", number=0)

    def fork(self, number: int, at: int, timeline: Timeline, name: str = "") -> Take:
        """A new take that shares the first blocks of this one.

        Args:
            number: its number.
            at: blocks that it shares.
            timeline: its prompts.
            name: its name.
        """
        other = Take(number, self.ring.least, timeline, self._vault, self._archive, name)
        other.parent = other.origin = self.number
        other.forked_at = at
        other.records, other._latents = self.records[:at], self._latents[:at]
        other._packed = {index: packed for index, packed in self._packed.items() if index < at}
        recent = [block for block in self.ring.held() if block.index < at]
        for block in recent:
            other._drop(other.ring.add(replace(block, take=number)))
        other.begun = other.next_pull = at
        return other

    def leave(self, takes: Iterable[Take]) -> None:
        """Let takes that forked from this one stand without it: it is about to be forgotten.

        Args:
            takes: all takes.
        """
        for other in takes:
            if other.parent == self.number:
                # What it shared stays with it; its place in the tree moves up.
                other.parent = self.parent
                other.forked_at = min(other.forked_at, self.forked_at) if self.parent is not None else other.forked_at
            if other.origin == self.number:
                other.origin = None

    @property
    def latents(self) -> Reel:
        """The latents of each block, on the CPU."""
        return Reel(self._latents)

    def info(self, current: bool) -> TakeInfo:
        """What others may know of it."""
        return TakeInfo(
            number=self.number,
            name=self.name,
            parent=self.parent,
            forked_at=self.forked_at,
            blocks=self.made,
            seed=self.history.timeline.seed,
            current=current,
        )

    def block(self, index: int) -> DecodedBlock | Packed | None:
        """A block, or what gives it, or None where it was not made."""
        return self.ring.get(index) or self._packed.get(index)

    def _drop(self, blocks: list[DecodedBlock]) -> None:
        self._packed.update(self._archive.pack(block for block in blocks if block.index not in self._packed))

    @property
    def made(self) -> int:
        """Blocks finished."""
        return len(self.records)

    def begin(self, timeline: Timeline, policy: str) -> Order | None:
        """Settle what the next block is made of.

        Args:
            timeline: the prompts.
            policy: for switches that do not say it themselves.

        Returns:
            The order, or None past the end.
        """
        block = self.begun
        if timeline.length is not None and block >= timeline.length:
            return None
        self.begun = block + 1
        self._order = order = order_at(timeline, block, policy)
        # What a recache or a clear did to the cache is not undone, and the first prompt of a take is never lost.
        self.revocable, self.revoked = block > 0 and order.policy in (None, "keep"), False
        return order

    def revoke(self) -> None:
        """Let the block under way begin again, if it may; its prompt is open until then."""
        if self.revocable:
            self.revocable, self.revoked = False, True
            self.begun -= 1

    def stepped(self, last: bool) -> bool:
        """A denoising step of the block under way is about to run.

        Args:
            last: whether it is the last one, after which nothing would be won by beginning again.

        Returns:
            Whether the block is to begin again instead.
        """
        self.revocable = self.revocable and not last
        return self.revoked

    def expect(self, switch: Switch, asked: float | None) -> None:
        """Remember a switch until its block is made, and when it was asked for if its latency is to be measured."""
        self._pending[switch.effective_block] = (switch, asked)

    def forget_replaced(self, timeline: Timeline) -> None:
        """Forget switches that the timeline no longer holds."""
        for block, (switch, _) in list(self._pending.items()):
            segment = timeline.starting_at(block)
            if segment is None or segment.prompt != switch.prompt:
                del self._pending[block]

    def keep(self, latents: Tensor) -> KeptTensor:
        """Put latents into the vault, which may take a moment; needs no lock."""
        self._archive.wait()
        return KeptTensor(self._vault, latents)

    def add(
        self, made: Made, kept: KeptTensor, engine: Engine, units: VideoShape, seed: int, now: float
    ) -> tuple[DecodedBlock, bool]:
        """Take in a finished block.

        Args:
            made: the block.
            kept: its latents; see `keep`.
            engine: what made it.
            units: counts frames.
            seed: seed of the take.
            now: time, as `time.perf_counter` has it.

        Returns:
            The block as consumers see it, and whether a live switch took effect with it.
        """
        order, index = self._order, made.block.index
        first = units.first_frame(index)
        live, asked = self._pending.pop(index, (None, None))
        if live is not None and asked is not None:
            self.latency = now - asked
            live = replace(live, latency_s=self.latency)
        self.records.append(
            BlockRecord(
                take=self.number,
                block=index,
                first_frame=first,
                prompt=order.prompt,
                seed=seed,
                policy=order.policy,
                sink_policy=order.sink_policy,
                requested_frame=None if live is None else live.requested_frame,
                resumed=self.resumed,
                segment=order.number,
                mix=order.mix,
                latents=made.digest,
                adapters=engine.strengths,
            )
        )
        self._latents.append(kept)
        self.stream, self.resumed = engine.stream, False
        self.meter.add(len(made.frames), made.seconds["total"], made.seconds)
        block = DecodedBlock(
            index=index,
            first_frame=first,
            frames=made.frames,
            prompt=order.prompt,
            segment=order.number,
            switch=live or _planned(order, index, first),
            take=self.number,
        )
        self._drop(self.ring.add(block))
        return block, live is not None and asked is not None

    def give(self, latents: Tensor, frames: np.ndarray, given: Given, units: VideoShape, policy: str) -> None:
        """Take in a block that was given rather than generated.

        Args:
            latents: `[1, f, C, H, W]`, on the CPU.
            frames: its pixels, uint8 `[T, H, W, 3]`.
            given: the latents for the log.
            units: counts frames.
            policy: for switches that do not say it themselves.
        """
        index, timeline = self.begun, self.history.timeline
        order = self.begin(timeline, policy)
        assert order is not None, "whoever gives blocks checks their number"
        self.revocable = False
        first = units.first_frame(index)
        self.records.append(
            BlockRecord(
                take=self.number,
                block=index,
                first_frame=first,
                prompt=order.prompt,
                seed=timeline.seed,
                segment=order.number,
                mix=order.mix,
                latents=digest_of(latents),
                given=given,
            )
        )
        self._latents.append(self.keep(latents))
        block = DecodedBlock(
            index=index, first_frame=first, frames=frames, prompt=order.prompt, segment=order.number, take=self.number
        )
        self._drop(self.ring.add(block))

    def fail(self) -> None:
        """Give up the block under way and the engine with it."""
        self.begun, self.revocable, self.revoked = self.made, False, False
        self.drop_engine()

    def drop_engine(self) -> None:
        """Let go of the cache and the rollout."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def rest(self) -> None:
        """Become a take that is not the current one: everything made is kept, what makes more is let go of."""
        self.rests += 1
        self.fail()
        if self.stream is not None and self.stream.memory_bytes > RESTING:
            self.stream = None
        self._drop(self.ring.clear())
        self._pending.clear()

    def clear(self) -> None:
        """Let go of everything but the log."""
        self.drop_engine()
        self.ring.clear()
        self._latents.clear()
        self._packed.clear()
        self.stream = None


def _planned(order: Order, index: int, first: int) -> Switch | None:
    """The switch of a segment that stood in the timeline: asked for where it took effect."""
    if not order.switched or order.policy is None:
        return None
    return Switch(
        prompt=order.prompt,
        policy=order.policy,
        requested_frame=first,
        requested_block=index,
        effective_block=index,
        effective_frame=first,
    )
