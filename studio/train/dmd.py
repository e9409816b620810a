"""Distribution matching: the loss that pulls the generator's clips towards the teacher's, and the critic's loss.

Everything here is a pure function of tensors: no networks, no state, no randomness but what a generator gives.

Source: DMD (Yin et al., 2024, arXiv:2311.18828) and DMD2 (arXiv:2405.14867) in the flow form of Self-Forcing
(arXiv:2506.08009) and LongLive (ICLR 2026).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from studio.schedule import TRAIN_STEPS, FlowSchedule, shift_sigma

__all__ = [
    "DMDGradient",
    "ScoreSchedules",
    "critic_loss",
    "dmd_gradient",
    "dmd_loss",
    "draw_timestep",
    "guided",
    "shift_timestep",
]


class ScoreSchedules:
    """The two tables of a distribution-matching step.

    Args:
        noise_shift: Flow shift of the noising and of the critic's loss.
        score_shift: Flow shift by which a score network's flow becomes a clean latent. The public code uses 8 here,
            the network wrapper's default, against 5 for the noising; 5 mends the mismatch.

    Raises:
        ValueError: If a shift is not positive.

    Attributes:
        noising: The schedule of the noising.
        score: The schedule of the score networks; the same object where the shifts agree.
    """

    def __init__(self, *, noise_shift: float = 5.0, score_shift: float = 8.0) -> None:
        for name, value in (("noise_shift", noise_shift), ("score_shift", score_shift)):
            if not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be positive and finite, got {value}; use 5.0")
        self.noising = FlowSchedule(shift=noise_shift)
        self.score = self.noising if score_shift == noise_shift else FlowSchedule(shift=score_shift)

    def to(self, device: torch.device | str) -> ScoreSchedules:
        """Move both tables to a device, in place; returns itself."""
        self.noising.to(device)
        self.score.to(device)
        return self


def shift_timestep(raw: Tensor, shift: float, *, lowest: float = 20.0, highest: float = 980.0) -> Tensor:
    """Warp uniform timesteps as the schedule does and keep them off both ends.

    Args:
        raw: Timesteps in [0, 1000], any shape; whole or not.
        shift: Flow shift, positive.
        lowest: Smallest result, in timesteps.
        highest: Largest result.

    Returns:
        float32 timesteps in [lowest, highest], not snapped to any table.

    Raises:
        ValueError: If the range is empty or leaves [0, 1000], or the shift is not positive.
    """
    if not 0 <= lowest < highest <= TRAIN_STEPS:
        raise ValueError(
            f"`lowest` < `highest` must lie in [0, {TRAIN_STEPS}], got {lowest} and {highest}; use 20 and 980"
        )
    if not shift > 0:
        raise ValueError(f"`shift` must be positive, got {shift}; use 5.0")
    warped = shift_sigma(raw.float() / TRAIN_STEPS, shift) * TRAIN_STEPS
    return warped.clamp(lowest, highest)


def draw_timestep(
    batch: int,
    frames: int,
    *,
    shift: float,
    generator: torch.Generator,
    lowest: float = 20.0,
    highest: float = 980.0,
) -> Tensor:
    """Draw one timestep a clip, the same for all its frames.

    Args:
        batch: Clips.
        frames: Latent frames of a clip.
        shift: Flow shift, positive.
        generator: Where the randomness comes from, on the CPU.
        lowest: Smallest timestep.
        highest: Largest timestep.

    Returns:
        `[batch, frames]` float32.

    Raises:
        ValueError: If the range or the shift is out of range.
    """
    raw = torch.randint(0, TRAIN_STEPS, (batch, 1), generator=generator)
    return shift_timestep(raw, shift, lowest=lowest, highest=highest).expand(batch, frames)


def guided(prompted: Tensor, blank: Tensor, scale: float) -> Tensor:
    """Clean latents under guidance, prompted + scale * (prompted - blank): scale 3 is a guidance weight of 4.

    Args:
        prompted: Prediction under the prompt.
        blank: Prediction under the empty or negative prompt, same shape.
        scale: At least 0; 0 is no guidance.

    Returns:
        The guided prediction, same shape.
    """
    return prompted + (prompted - blank) * scale


@dataclass(frozen=True, kw_only=True)
class DMDGradient:
    """What distribution matching asks of a clip.

    Args:
        gradient: Direction to move against, `[B, F, C, H, W]`: the normalised and cleaned difference.
        difference: Critic's minus teacher's clean latents, before the normalisation.
        normaliser: Mean distance of the clip from the teacher's, a sample, `[B, 1, 1, 1, 1]`.
    """

    gradient: Tensor
    difference: Tensor
    normaliser: Tensor


@torch.no_grad()
def dmd_gradient(x: Tensor, fake: Tensor, real: Tensor) -> DMDGradient:
    """Gradient of the distance between the generator's distribution and the teacher's.

    Args:
        x: The generator's clean latents `[B, F, C, H, W]`.
        fake: The critic's clean latents for noised `x`, same shape.
        real: The teacher's, guided, same shape.

    Returns:
        The gradient, without non-finite numbers, and what it was made of.

    Raises:
        ValueError: If the shapes differ.
    """
    if not x.shape == fake.shape == real.shape:
        raise ValueError(
            f"`fake` and `real` must have the shape of `x` {list(x.shape)}, "
            f"got {list(fake.shape)} and {list(real.shape)}"
        )
    difference = fake - real
    normaliser = (x - real).abs().mean(dim=list(range(1, x.dim())), keepdim=True)
    gradient = torch.nan_to_num(difference / normaliser)
    return DMDGradient(gradient=gradient, difference=difference, normaliser=normaliser)


def dmd_loss(x: Tensor, gradient: Tensor, mask: Tensor | None = None) -> Tensor:
    """A loss whose gradient by `x` is the given one over the number of counted elements.

    Args:
        x: Clean latents `[B, F, C, H, W]`, with gradient.
        gradient: Same shape; treated as constant.
        mask: Bool, broadcastable to `x`, `True` where an element counts; `None` counts all.

    Returns:
        0.5 * mean((x - (x - gradient))^2), a float64 scalar.

    Raises:
        ValueError: If a shape does not fit or the mask counts nothing.
    """
    if gradient.shape != x.shape:
        raise ValueError(f"`gradient` must have the shape of `x` {list(x.shape)}, got {list(gradient.shape)}")
    value = x.double()
    target = (value - gradient.double()).detach()
    return 0.5 * _mean((value - target).square(), mask)


def critic_loss(
    flow: Tensor,
    x: Tensor,
    noise: Tensor,
    noisy: Tensor,
    timestep: Tensor,
    schedules: ScoreSchedules,
    mask: Tensor | None = None,
) -> Tensor:
    """Flow-matching loss of the critic on the generator's clips.

    The critic's flow goes to a clean latent by the score table and back by the noising table, as in the public code;
    where the two agree this is the plain flow error.

    Args:
        flow: The critic's flow, `[B, F, C, H, W]`.
        x: The generator's clean latents, constant.
        noise: The noise that was mixed in.
        noisy: Their mixture at `timestep`.
        timestep: `[B, F]`.
        schedules: The two tables.
        mask: Bool, broadcastable to `x`, `True` where an element counts; `None` counts all.

    Returns:
        A scalar in `flow`'s type.

    Raises:
        ValueError: If a shape does not fit or the mask counts nothing.
    """
    if not flow.shape == x.shape == noise.shape == noisy.shape:
        raise ValueError(
            f"`flow`, `noise` and `noisy` must have the shape of `x` {list(x.shape)}, "
            f"got {list(flow.shape)}, {list(noise.shape)} and {list(noisy.shape)}"
        )
    if schedules.score is not schedules.noising:
        clean = schedules.score.x0_from_flow(flow, noisy, timestep)
        flow = schedules.noising.flow_from_x0(clean, noisy, timestep)
    return _mean((flow - (noise - x)).square(), mask)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    if mask.dtype != torch.bool:
        raise ValueError(f"`mask` must be boolean, got {mask.dtype}; use mask.bool()")
    try:
        counted = values[mask.expand_as(values)]
    except RuntimeError as error:
        raise ValueError(f"`mask` must broadcast to {list(values.shape)}, got {list(mask.shape)}") from error
    if not counted.numel():
        raise ValueError("`mask` must count at least one element, got none")
    return counted.mean()
