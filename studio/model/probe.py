"""The probe: a small network that reads shape, colour, action and place off a clip, to measure what was generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Sizes of the probe.

    Args:
        classes: attribute to its number of values.
        width: channels of the first level; each of the others has half as many more.
        levels: halvings of the picture.
        size: pixels a side of the pictures that the probe looks at; larger ones are averaged down.

    Raises:
        ValueError: if there is nothing to read, or a size does not fit.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    width: int = 32
    levels: int = 4
    size: int = 64

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("`classes` must name at least one attribute, got none; pass {'colour': 8}")
        if self.width % 16 or self.width < 16:
            raise ValueError(f"`width` must be a multiple of 16, got {self.width}; use 32")
        if self.levels < 1 or self.size % 2**self.levels:
            raise ValueError(f"`size` must be a multiple of 2^levels = {2**self.levels}, got {self.size}; use 64")


class Probe(nn.Module):
    """Reads attributes off clips of any length.

    Args:
        config: sizes and attributes.
    """

    def __init__(self, config: ProbeConfig):
        super().__init__()
        self.config = config
        widths = [config.width * (2 + level) // 2 for level in range(config.levels)]
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
            # Time is halved twice only: what remains tells a bounce from a spin.
            stride = (2 if level in (1, 2) else 1, 2, 2)
            layers += [_step(inputs, outputs, stride), _step(outputs, outputs, (1, 1, 1))]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], count) for name, count in config.classes.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Scores of every attribute.

        Args:
            pixels: [B, T, 3, H, W] in [-1, 1], square, at least as large as the configured size.

        Returns:
            Attribute to [B, values].

        Raises:
            ValueError: if the pictures have another shape.
        """
        if pixels.ndim != 5 or pixels.shape[2] != 3 or pixels.shape[-1] % self.config.size:
            expected = f"[B, T, 3, H, W] with a multiple of {self.config.size} a side"
            raise ValueError(f"`pixels` must be {expected}, got {list(pixels.shape)}; resize the clip")
        factor = pixels.shape[-1] // self.config.size
        x = F.avg_pool3d(pixels.transpose(1, 2), (1, factor, factor))
        features = self.trunk(x)
        pooled = torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


def _step(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())
