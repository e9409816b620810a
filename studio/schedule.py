"""Words: the flow-matching schedule, in sigmas inside and timesteps at the network's door.

A noisy latent is x = (1 - sigma) * x0 + sigma * noise and the network predicts the flow noise - x0. A timestep is
1000 * sigma; conversions look up the nearest entry of the table, as the public code does, so that timestep 0 means the
table's last sigma and never 0.

Source: flow matching (Lipman et al., 2023, arXiv:2210.02747) with the timestep shift of SD3 (Esser et al., 2024,
arXiv:2403.03206), in the form of Self-Forcing and LongLive v1.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["FlowSchedule", "shift_sigma"]

TRAIN_STEPS = 1000


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Warp noise levels towards 1.

    Args:
        sigma: Any shape, in [0, 1].
        shift: Positive; 1 leaves `sigma` as it is.

    Returns:
        shift * sigma / (1 + (shift - 1) * sigma), same shape.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def _per_frame(values: Tensor, like: Tensor) -> Tensor:
    """Append axes to `values` [...] until it broadcasts over `like` from the left."""
    return values.reshape(*values.shape, *([1] * (like.dim() - values.dim())))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class FlowSchedule:
    """A falling table of sigmas and the conversions between flow, clean latent and noisy latent.

    Args:
        shift: Timestep shift, positive and finite.
        count: Number of table entries, at least 1.
        sigma_min: Last sigma before the shift.
        sigma_max: First sigma before the shift.
        extra_one_step: Whether the table leaves out its final `sigma_min`.

    Raises:
        ValueError: If a value is out of range.

    Attributes:
        sigmas: `[count]` float32, falling.
        timesteps: `[count]` float32, 1000 * sigmas.
    """

    def __init__(
        self,
        *,
        shift: float = 5.0,
        count: int = TRAIN_STEPS,
        sigma_min: float = 0.0,
        sigma_max: float = 1.0,
        extra_one_step: bool = True,
    ) -> None:
        if not 0 < shift < float("inf"):
            raise ValueError(f"`shift` must be positive and finite, got {shift}; use 5.0")
        if not _is_whole(count) or count < 1:
            raise ValueError(f"`count` must be a whole number of at least 1, got {count!r}")
        if not 0 <= sigma_min < sigma_max <= 1:
            raise ValueError(f"`sigma_min` < `sigma_max` must lie in [0, 1], got {sigma_min} and {sigma_max}")
        self.shift = shift
        line = torch.linspace(sigma_max, sigma_min, count + 1)[:-1] if extra_one_step else None
        self.sigmas = shift_sigma(torch.linspace(sigma_max, sigma_min, count) if line is None else line, shift)
        self.timesteps = self.sigmas * TRAIN_STEPS
        bell = torch.exp(-2 * ((self.timesteps - TRAIN_STEPS / 2) / TRAIN_STEPS) ** 2)
        bell = bell - bell.min()
        self.weights = bell * (count / bell.sum())
        self._warped: dict[tuple[int, ...], Tensor] = {}

    def to(self, device: torch.device | str) -> FlowSchedule:
        """Move the tables to a device, in place; returns itself."""
        self.sigmas, self.timesteps, self.weights = (
            table.to(device) for table in (self.sigmas, self.timesteps, self.weights)
        )
        self._warped = {}
        return self

    def index(self, timestep: Tensor) -> Tensor:
        """Nearest table entry of each timestep.

        Args:
            timestep: Any shape, in [0, 1000].

        Returns:
            int64 indices of the same shape.
        """
        distance = (self.timesteps.to(timestep.device) - timestep.unsqueeze(-1)).abs()
        return distance.argmin(dim=-1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Table sigma of each timestep, same shape."""
        return self.sigmas.to(timestep.device)[self.index(timestep)]

    def weight(self, timestep: Tensor) -> Tensor:
        """Training weight of each timestep: a bell over the middle of the table, of mean 1."""
        return self.weights.to(timestep.device)[self.index(timestep)]

    def warp(self, steps: Sequence[int]) -> Tensor:
        """Timesteps of a list of unshifted steps.

        Args:
            steps: Whole steps in [0, `count`], counted from the table's end: `count`, 1000 by default, is the first
                entry, pure noise, 1 the last, and 0 is timestep 0.

        Returns:
            `[len(steps)]` float32 timesteps from the table.

        Raises:
            ValueError: If a step is no whole number in that range.
        """
        count = len(self.timesteps)
        if not all(_is_whole(step) and 0 <= step <= count for step in steps):
            raise ValueError(f"`steps` must be whole numbers in 0..{count}, the table's entries, got {list(steps)}")
        if (asked := tuple(steps)) not in self._warped:
            table = torch.cat([self.timesteps, self.timesteps.new_zeros(1)])
            # Kept, because what is sent to a GPU anew would wait for all of its work.
            with torch.inference_mode(False):
                self._warped[asked] = table[count - torch.tensor(asked, device=table.device)].clone()
        return self._warped[asked]

    def add_noise(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Mix clean latents with noise.

        Args:
            x0: Clean latents; any shape that starts with `timestep`'s.
            noise: Standard normal, same shape.
            timestep: Leading axes of `x0`, in [0, 1000].

        Returns:
            (1 - sigma) * x0 + sigma * noise in `x0`'s type.
        """
        sigma = _per_frame(self.sigma(timestep), x0)
        return ((1 - sigma) * x0 + sigma * noise).type_as(x0)

    def x0_from_flow(self, flow: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
        """Clean latents that a flow prediction implies: x - sigma * flow, computed in float64.

        Args:
            flow: Predicted flow, shaped like `x`.
            x: Noisy latents.
            timestep: Leading axes of `x`.

        Returns:
            Clean latents in `flow`'s type.
        """
        sigma = _per_frame(self.sigma(timestep).double(), x)
        return (x.double() - sigma * flow.double()).to(flow.dtype)

    def flow_from_x0(self, x0: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
        """Flow that clean latents imply: (x - x0) / sigma, computed in float64; the inverse of `x0_from_flow`."""
        sigma = _per_frame(self.sigma(timestep).double(), x)
        return ((x.double() - x0.double()) / sigma).to(x0.dtype)

    def step(self, flow: Tensor, x: Tensor, timestep: Tensor, *, together: bool = True) -> Tensor:
        """One Euler step along the flow to the next table entry (to sigma 0 from the last).

        Args:
            flow: Predicted flow, shaped like `x`.
            x: Noisy latents.
            timestep: Leading axes of `x`.
            together: Whether one sample at the last entry takes the whole batch to sigma 0, as the public code does;
                `False` treats each by itself.

        Returns:
            Latents at the next sigma.
        """
        index = self.index(timestep)
        ends = torch.cat([self.sigmas, self.sigmas.new_zeros(1)]).to(x.device)
        final = together and bool((index + 1 >= len(self.sigmas)).any())
        target = torch.zeros_like(ends[index]) if final else ends[index + 1]
        return x + flow * _per_frame(target - ends[index], x)
