"""What a block is to be made of."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from studio.config import Policy, SinkPolicy
from studio.timeline import Mix, Timeline, changes_at, mix_at
from studio.timeline.past import turns


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the next block is to be made of.

    Args:
        prompt: the prompt in force; of a blend, its first.
        number: number of its segment, for the cache's provenance; mere cuts do not count.
        policy: what a switch at this block does to the cache; None for no switch.
        sink_policy: overrides the model's for this switch.
        mix: what is in force where it is more than `prompt`; else None.
        switched: whether a segment starts here, other than the first.
    """

    prompt: str
    number: int
    policy: Policy | None = None
    sink_policy: SinkPolicy | None = None
    mix: Mix | None = None
    switched: bool = False

    @property
    def text(self) -> str | Mix:
        """What its embedding is made of."""
        return self.prompt if self.mix is None else self.mix


def order_at(timeline: Timeline, block: int, policy: str) -> Order:
    """What a timeline wants of a block.

    During a transition every block is a small switch: under "recache" each recomputes the cache, while "keep" and
    "clear" leave it alone after the first.

    Args:
        timeline: the prompts.
        block: the block, before the end.
        policy: for switches that do not say it themselves.

    Returns:
        The order.
    """
    index = timeline.index_at(block)
    number = bisect_right(turns(timeline), index) - 1
    segment, mix = timeline.segments[index], mix_at(timeline, block)
    switched = block > 0 and segment.start == block
    wanted = segment.policy or policy
    moving = wanted == "recache" and not switched and segment.transition is not None and changes_at(timeline, block)
    plain = mix.plain
    return Order(
        prompt=segment.prompt,
        number=number,
        policy=wanted if switched or moving else None,  # type: ignore[arg-type]
        sink_policy=segment.sink_policy if switched or moving else None,  # type: ignore[arg-type]
        mix=None if plain == segment.prompt else mix,
        switched=switched,
    )
