"""The event log of a take: what each block was made under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from studio.timeline import Segment, Timeline


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """What one block was made under; with the model, the records of a take determine its latents bit for bit.

    Args:
        take: number of the take.
        block: block number.
        first_frame: its first pixel frame.
        prompt: the prompt in force.
        seed: seed of the noise.
        policy: what the switch at this block did to the cache; None where there was no switch.
        sink_policy: the sink policy of that switch; None for the model's own.
        requested_frame: the playhead when a live switch was asked for that took effect here, else None.
        resumed: whether the cache was rebuilt from the kept latents before this block, as after an error.
    """

    take: int
    block: int
    first_frame: int
    prompt: str
    seed: int
    policy: str | None = None
    sink_policy: str | None = None
    requested_frame: int | None = None
    resumed: bool = False


def script_of(records: Sequence[BlockRecord], like: Timeline) -> Timeline:
    """The timeline that makes the same latents again, with every policy spelled out.

    Args:
        records: the event log of a take.
        like: gives the frame rate and the block size.

    Returns:
        A timeline as long as the log.

    Raises:
        ValueError: the log is empty, or the cache was rebuilt in the middle, which a timeline cannot say.
    """
    if not records:
        raise ValueError("`records` must hold at least one block, got none; play first")
    rebuilt = [record.block for record in records if record.resumed]
    if rebuilt:
        raise ValueError(f"the cache was rebuilt at block {rebuilt[0]} after an error, which a timeline cannot repeat")
    segments = tuple(
        Segment(record.prompt, record.block, policy=record.policy, sink_policy=record.sink_policy)
        for record in records
        if record.block == 0 or record.policy is not None
    )
    return replace(like, segments=segments, length=len(records), seed=records[0].seed)
