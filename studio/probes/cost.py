"""What probes cost: floating-point operations and time, beside those of the network itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from studio.config import DiTConfig

__all__ = ["Cost", "Stopwatch", "pass_flops", "side_pass_flops"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of a probe over the passes it has heard, and of those passes themselves.

    Args:
        passes: Passes heard, those without a reading included.
        flops: Floating-point operations of the probe's matrix products.
        network_flops: Those of the network's matrix products in the same passes.
        seconds: Seconds that the probe took, measured.
    """

    passes: int = 0
    flops: int = 0
    network_flops: int = 0
    seconds: float = 0.0

    @property
    def flops_share(self) -> float:
        """The probe's operations as a share of the network's; 0 before the first pass."""
        return self.flops / self.network_flops if self.network_flops else 0.0

    def time_share(self, seconds: float) -> float:
        """The probe's time as a share of the rest of some measured time.

        Args:
            seconds: Seconds of the blocks the probe has heard, the probe's own time included.

        Returns:
            Probe time over the time without it.

        Raises:
            ValueError: If the probe took longer than `seconds`.
        """
        if not seconds > self.seconds:
            raise ValueError(f"`seconds` must exceed the probe's own {self.seconds:.6f}, got {seconds}")
        return self.seconds / (seconds - self.seconds)


def side_pass_flops(queries: int, keys: int, heads: int, head_dim: int) -> int:
    """Operations of the matrix product of a side pass: every query with every key in every head.

    Args:
        queries: Sampled queries.
        keys: Visible keys.
        heads: Attention heads.
        head_dim: Channels of a head.

    Returns:
        Multiplications and additions, each counted.
    """
    return 2 * queries * keys * heads * head_dim


def pass_flops(config: DiTConfig, queries: int, keys: int, *, flow: bool = True) -> int:
    """Operations of the matrix products of one pass of the network over tokens, one video.

    Args:
        config: Sizes of the network.
        queries: Tokens of the pass.
        keys: Tokens that self-attention sees.
        flow: Whether the flow is wanted; without it the last layer only stores its keys and values.

    Returns:
        Multiplications and additions, each counted; the time embedding and the prompt's own projections, which do not
        grow with the picture, are left out.
    """
    dim, cells = config.dim, config.patch[1] * config.patch[2]
    projections = (4 + 2) * 2 * queries * dim * dim  # self-attention's q, k, v, o and cross-attention's q, o
    attended = 2 * 2 * queries * (keys + config.text_len) * dim
    feed_forward = 2 * 2 * queries * dim * config.ffn_dim
    layer = projections + attended + feed_forward
    patches, pixels = (2 * queries * dim * cells * channels for channels in (config.in_channels, config.out_channels))
    if not flow:
        return (config.layers - 1) * layer + 2 * 2 * queries * dim * dim + patches
    return config.layers * layer + patches + pixels


class Stopwatch:
    """Adds up time spent between start and stop, by events on a GPU so that nothing has to wait.

    Args:
        device: Where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu, self._spans, self._seconds = device.type == "cuda", [], 0.0

    def __enter__(self) -> Stopwatch:
        if self._gpu:
            self._spans.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._spans[-1][0].record()
        else:
            self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._gpu:
            self._spans[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        """Seconds so far; on a GPU this waits for the timed work."""
        for started, ended in self._spans:
            ended.synchronize()
            self._seconds += started.elapsed_time(ended) / 1000
        self._spans = []
        return self._seconds
