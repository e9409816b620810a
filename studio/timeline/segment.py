"""What a timeline is made of: segments with their prompts, weights and transitions, and markers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from studio.config import SINK_POLICIES
from studio.timeline.checks import (
    MAX_BLOCKS,
    check_choice,
    check_colour,
    check_policy,
    check_prompt,
    check_text,
    check_weight,
    check_whole,
    shorten,
)

MAX_TRANSITION = 1000
MAX_PARTS = 64
TransitionKind = Literal["linear", "spherical"]
TRANSITIONS: tuple[str, ...] = get_args(TransitionKind)


@dataclass(frozen=True)
class Weighted:
    """A prompt in a blend.

    Args:
        prompt: what to see.
        weight: its weight, from 0 up; only the ratios of a blend's weights matter.

    Raises:
        ValueError: a value that makes no sense.
    """

    prompt: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        object.__setattr__(self, "weight", check_weight(self.weight))


@dataclass(frozen=True)
class Transition:
    """How the prompt before goes over into a segment's own, through the segment's first `blocks` blocks.

    The new prompt's share at mixed block j = 0, 1, ... is (j + 1) / (blocks + 1). A switch without a transition is the
    same with no mixed block.

    Args:
        blocks: mixed blocks, 1 to 1000.
        kind: "linear" or "spherical" between the embeddings.

    Raises:
        ValueError: a value that makes no sense.
    """

    blocks: int
    kind: TransitionKind = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", check_whole(self.blocks, "transition.blocks", 1, MAX_TRANSITION))
        if check_choice(self.kind, "transition.kind", TRANSITIONS) is None:
            raise ValueError('`transition.kind` must be "linear" or "spherical", got None; leave it out for linear')


@dataclass(frozen=True)
class Marker:
    """A named place of the timeline.

    Args:
        block: where it stands, at the start of a block.
        name: free text for people.
        colour: "#rrggbb", or None.

    Raises:
        ValueError: a value that makes no sense.
    """

    block: int
    name: str = ""
    colour: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", check_whole(self.block, "block", 0, MAX_BLOCKS))
        check_text(self.name, "name", 200)
        check_colour(self.colour)


@dataclass(frozen=True)
class Segment:
    """A stretch of the timeline under one prompt or a blend; it lasts until the next segment starts.

    Args:
        prompt: what to see; at most 2000 characters. Of a blend, its first prompt.
        start: block at which it takes effect.
        policy: what a switch to it does to the cache: "recache", "keep", "clear"; None for the session's own.
        sink_policy: whether that switch keeps or rewrites the sink: "keep", "rewrite"; None for the model's own.
        colour: "#rrggbb"; None for the colour that its place in the palette gives.
        note: free text for people.
        weight: weight of `prompt` among those of `blend`.
        blend: further prompts that are mixed in.
        transition: how the prompt before goes over into this one; without effect on the first segment.

    Raises:
        ValueError: a value that makes no sense; the message names it and the remedy.
    """

    prompt: str
    start: int = 0
    policy: str | None = field(default=None, kw_only=True)
    sink_policy: str | None = field(default=None, kw_only=True)
    colour: str | None = field(default=None, kw_only=True)
    note: str = field(default="", kw_only=True)
    weight: float = field(default=1.0, kw_only=True)
    blend: tuple[Weighted, ...] = field(default=(), kw_only=True)
    transition: Transition | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        object.__setattr__(self, "start", check_whole(self.start, "start", 0, MAX_BLOCKS))
        check_policy(self.policy)
        check_choice(self.sink_policy, "sink_policy", SINK_POLICIES, "the model's own")
        check_colour(self.colour)
        check_text(self.note, "note")
        object.__setattr__(self, "weight", check_weight(self.weight))
        object.__setattr__(self, "blend", _check_blend(self.blend))
        if self.weight + sum(part.weight for part in self.blend) <= 0:
            raise ValueError(
                f"`weight` must be above 0 for some prompt of {shorten(self.prompt)}, got 0 for all; use 1"
            )
        if self.transition is not None and not isinstance(self.transition, Transition):
            raise ValueError(f"`transition` must be a Transition, got {shorten(self.transition)}; as Transition(4)")

    def __str__(self) -> str:
        """The prompt, or a blend's prompts with their shares, and how it takes over."""
        parts = self.parts
        text = parts[0][0] if len(parts) == 1 else " + ".join(f"{share:.0%} {prompt}" for prompt, share in parts)
        how = [self.policy, self.sink_policy and f"sink: {self.sink_policy}"]
        how += [self.transition and f"over {self.transition.blocks} blocks, {self.transition.kind}"]
        said = ", ".join(filter(None, how))
        return f"{text} ({said})" if said else text

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """The prompts in force and their shares, which add up to 1; equal prompts are one, those of weight 0 none."""
        shares: dict[str, float] = {}
        for part in (Weighted(self.prompt, self.weight), *self.blend):
            if part.weight > 0:
                shares[part.prompt] = shares.get(part.prompt, 0.0) + part.weight
        return normalised(shares)


def normalised(shares: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Scale shares so that they add up to 1; shares that already do stay as they are, to the bit.

    Args:
        shares: by prompt; at least one above 0.

    Returns:
        Prompts and shares in the given order.
    """
    total = math.fsum(shares.values())
    if abs(total - 1) < 1e-12:
        return tuple(shares.items())
    return tuple((prompt, share / total) for prompt, share in shares.items())


def _check_blend(candidate: object) -> tuple[Weighted, ...]:
    if isinstance(candidate, (str, bytes)) or not hasattr(candidate, "__iter__"):
        raise ValueError(f"`blend` must be a sequence of Weighted, got {shorten(candidate)}; use (Weighted(...),)")
    parts = tuple(candidate)  # type: ignore[arg-type]
    for i, part in enumerate(parts):
        if not isinstance(part, Weighted):
            raise ValueError(f"`blend[{i}]` must be a Weighted, got {shorten(part)}; use Weighted(prompt, weight)")
    if len(parts) >= MAX_PARTS:
        raise ValueError(f"`blend` must have fewer than {MAX_PARTS} prompts, got {len(parts)}; leave some out")
    return parts
