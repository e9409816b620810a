"""The event log of a take: what each block was made under."""

from __future__ import annotations

from dataclasses import dataclass


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
