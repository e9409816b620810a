"""Losses of the video VAE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(
    got: Tensor, want: Tensor, mask: Tensor, *, figure: float, edges: float, squares: float
) -> tuple[Tensor, Tensor]:
    """Charbonnier and squared difference of pixels and that of edges at three scales, heavier on the figure.

    Args:
        got: [B, T, 3, H, W] reconstruction.
        want: [B, T, 3, H, W] original.
        mask: [B, T, 1, H, W] in [0, 1], where the figure is.
        figure: extra weight on the figure.
        edges: weight of the edges.
        squares: weight of the squared differences, which large faults dominate.

    Returns:
        (weighted loss, plain mean absolute difference).
    """
    difference = (got.float() - want).flatten(0, 1)
    # Widened, because the outline is what a viewer recognises.
    weight = 1 + figure * F.max_pool2d(mask.flatten(0, 1), 5, stride=1, padding=2)
    weight = weight / weight.mean()
    total = ((charbonnier(difference) + squares * difference.square()) * weight).mean()
    for scale in range(3):
        if scale:
            difference, weight = F.avg_pool2d(difference, 2), F.avg_pool2d(weight, 2)
        across = charbonnier(difference[..., :, 1:] - difference[..., :, :-1]) * weight[..., :, 1:]
        down = charbonnier(difference[..., 1:, :] - difference[..., :-1, :]) * weight[..., 1:, :]
        total = total + edges * (across.mean() + down.mean())
    return total, (got.float() - want).abs().mean()


def charbonnier(x: Tensor, eps: float = 1e-3) -> Tensor:
    """A smooth absolute value.

    Args:
        x: any shape.
        eps: width of the rounded tip.

    Returns:
        sqrt(x^2 + eps^2) - eps.
    """
    return torch.sqrt(x * x + eps * eps) - eps


def kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """Mean divergence of the latents' distribution from a standard normal one, a latent number.

    Args:
        mu: mean, any shape.
        log_var: log variance, same shape.

    Returns:
        A scalar, at least 0.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).mean()
