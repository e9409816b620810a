"""A take: one run of a timeline from block 0, with everything that was made in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from studio.events import DecodedBlock, Switch
from studio.live.engine import Engine, Made, Order
from studio.live.log import BlockRecord
from studio.live.meter import Meter
from studio.live.ring import Ring
from studio.shapes import VideoShape
from studio.timeline import Timeline


class Take:
    """What was begun and made since the last start. Its owner's lock guards it.

    Args:
        number: number of the take.
        least: recent blocks whose frames are kept whatever they weigh.

    Attributes:
        begun: blocks whose prompt is settled; edits before that block come too late.
        records: the event log.
        latents: the latents of each block, on the CPU.
        meter: how fast it goes.
        next_pull: the block that a new loop over the frames begins with.
        latency: seconds that the last live switch took.
        engine: what makes the blocks; None before the first, and after an error.
        stream: the decoder's stream after the last block.
        resumed: whether the engine was rebuilt and has made nothing since.
        ring: frames of the recent blocks.
    """

    def __init__(self, number: int, least: int) -> None:
        self.number, self.begun, self.next_pull = number, 0, 0
        self.records: list[BlockRecord] = []
        self.latents: list[Tensor] = []
        self.meter, self.ring = Meter(), Ring(least)
        self.latency: float | None = None
        self.engine: Engine | None = None
        self.stream: Any = None
        self.resumed = False
        self._pending: dict[int, tuple[Switch, float | None]] = {}
        self._order = Order(prompt="", number=0)

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
        number = timeline.index_at(block)
        segment = timeline.segments[number]
        switched = block > 0 and segment.start == block
        self.begun = block + 1
        self._order = Order(
            prompt=segment.prompt,
            number=number,
            policy=(segment.policy or policy) if switched else None,  # type: ignore[arg-type]
            sink_policy=segment.sink_policy if switched else None,  # type: ignore[arg-type]
        )
        return self._order

    def expect(self, switch: Switch, asked: float | None) -> None:
        """Remember a switch until its block is made, and when it was asked for if its latency is to be measured."""
        self._pending[switch.effective_block] = (switch, asked)

    def forget_replaced(self, timeline: Timeline) -> None:
        """Forget switches that the timeline no longer holds."""
        for block, (switch, _) in list(self._pending.items()):
            segment = timeline.starting_at(block)
            if segment is None or segment.prompt != switch.prompt:
                del self._pending[block]

    def add(self, made: Made, engine: Engine, units: VideoShape, seed: int, now: float) -> tuple[DecodedBlock, bool]:
        """Take in a finished block.

        Args:
            made: the block.
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
            )
        )
        self.latents.append(made.block.latents)
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
        self.ring.add(block)
        return block, live is not None and asked is not None

    def fail(self) -> None:
        """Give up the block under way and the engine with it."""
        self.begun = self.made
        self.drop_engine()

    def drop_engine(self) -> None:
        """Let go of the cache and the rollout."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def clear(self) -> None:
        """Let go of everything but the log."""
        self.drop_engine()
        self.ring.clear()
        self.latents.clear()
        self.stream = None


def _planned(order: Order, index: int, first: int) -> Switch | None:
    """The switch of a segment that stood in the timeline: asked for where it took effect."""
    if order.policy is None:
        return None
    return Switch(
        prompt=order.prompt,
        policy=order.policy,
        requested_frame=first,
        requested_block=index,
        effective_block=index,
        effective_frame=first,
    )
