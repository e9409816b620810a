"""Attention of a rollout, read from sampled queries in an exact side pass.

Fused kernels give no map, and a whole map of a large model would not fit anywhere. The probe takes a few queries of
each latent frame, the same ones each time, and computes their softmax over all visible keys beside the pass. Each
sampled query is exact; pooled numbers are means over the sample.

Source: softmax attention (Vaswani et al., 2017, arXiv:1706.03762); cross-attention maps by word as in DAAM (Tang et
al., 2022, arXiv:2210.04885).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from studio.config import DiTConfig
from studio.model.attention import Tap
from studio.model.cache import Slot
from studio.probes.cost import Cost, Stopwatch, pass_flops, side_pass_flops
from studio.probes.passes import Pass
from studio.probes.readings import AttentionReading, Point, PointMap
from studio.probes.softmax import attention_weights, pool_over_slots, sample_positions, token_indices

__all__ = ["AttentionProbe", "AttentionSampling"]


@dataclass(frozen=True, kw_only=True)
class AttentionSampling:
    """What an attention probe reads.

    Args:
        samples: Most queries taken of a latent frame, on an even grid; `None` for every token.
        layers: Layers read, or `None` for all.
        steps: Denoising steps read, from 0; negative ones count from the last of the sampler's, and `None` is all.
        commit: Whether commits are read.
        recache: Whether recaches are read.
        clip: Whether passes of the bidirectional network are read.
        positions: Whether mass is kept for each token position of a slot.
        points: Points whose whole map is kept.
        video: Which video of a batch.

    Raises:
        ValueError: If a number makes no sense.
    """

    samples: int | None = 16
    layers: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = (-1,)
    commit: bool = False
    recache: bool = False
    clip: bool = True
    positions: bool = True
    points: tuple[Point, ...] = ()
    video: int = 0

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"`samples` must be at least 1 or None for every token, got {self.samples}")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"`layers` must be layers from 0, got {self.layers}; use None for all")
        if self.video < 0:
            raise ValueError(f"`video` must be at least 0, got {self.video}")


class AttentionProbe:
    """Reads attention from the passes of a network; a listener of `Watch`.

    Args:
        dit: Sizes of the network.
        steps: Denoising steps of the sampler, to which negative steps refer.
        sampling: What is read.
        keep: Readings kept, the latest ones; `None` for all.

    Raises:
        ValueError: If the sampling names a layer or step that is not there, or `keep` is below 1.

    Attributes:
        readings: The latest readings, old to new.
    """

    def __init__(
        self, dit: DiTConfig, *, steps: int, sampling: AttentionSampling | None = None, keep: int | None = 64
    ) -> None:
        self.sampling = sampling or AttentionSampling()
        if keep is not None and keep < 1:
            raise ValueError(f"`keep` must be at least 1 or None for all, got {keep}")
        layers = tuple(range(dit.layers)) if self.sampling.layers is None else self.sampling.layers
        if max(layers) >= dit.layers:
            raise ValueError(f"`layers` must lie in 0..{dit.layers - 1}, got {max(layers)}")
        wanted = tuple(range(steps)) if self.sampling.steps is None else self.sampling.steps
        outside = next((step for step in wanted if not -steps <= step < steps), None)
        if outside is not None:
            raise ValueError(f"`steps` must lie in {-steps}..{steps - 1}, got {outside}")
        self._config, self._layers = dit, layers
        self._steps = frozenset(step % steps for step in wanted)
        self._side: _SidePass | None = None
        self._cost = Cost()
        self.readings: deque[AttentionReading] = deque(maxlen=keep)

    @property
    def cost(self) -> Cost:
        """Work so far, beside the network's."""
        return self._cost

    def begin(self, call: Pass) -> Tap | None:
        """See `Listener.begin`."""
        self._side = _SidePass(call, self.sampling, self._layers) if self._wants(call) else None
        return self._side

    def end(self, call: Pass) -> None:
        """See `Listener.end`."""
        side, self._side = self._side, None
        network = pass_flops(self._config, len(call.frames) * call.tokens, len(call.slots) * call.tokens)
        flops, seconds = 0, 0.0
        if side is not None:
            self.readings.append(side.reading())
            flops, seconds = side.flops, side.seconds
        self._cost = Cost(
            passes=self._cost.passes + 1,
            flops=self._cost.flops + flops,
            network_flops=self._cost.network_flops + network,
            seconds=self._cost.seconds + seconds,
        )

    def _wants(self, call: Pass) -> bool:
        if call.kind == "denoise":
            return call.step in self._steps
        return {"commit": self.sampling.commit, "recache": self.sampling.recache, "clip": self.sampling.clip}[call.kind]


class _SidePass:
    """The tap of one pass: pools layer by layer on the device, and brings the result over once."""

    def __init__(self, call: Pass, sampling: AttentionSampling, layers: tuple[int, ...]) -> None:
        rows, columns = call.grid
        for point in sampling.points:
            if point.frame >= len(call.frames) or point.row >= rows or point.column >= columns:
                raise ValueError(
                    f"`points` must lie within {len(call.frames)} frames, {rows} rows and {columns} columns, "
                    f"got {point}"
                )
        self._call, self._sampling, self._layers = call, sampling, frozenset(layers)
        self._samples = sample_positions(rows, columns, sampling.samples)
        self._points = tuple((point.frame * rows + point.row, point.column) for point in sampling.points)
        self._seen: dict[str, list[Tensor]] = {name: [] for name in ("mass", "positions", "text", "maps", "points")}
        self._watch: Stopwatch | None = None
        self._read: list[int] = []
        self.flops = 0

    @property
    def seconds(self) -> float:
        """Seconds the side pass took, on the device's clock."""
        return self._watch.seconds if self._watch is not None else 0.0

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.self_attention`."""
        if layer not in self._layers:
            return
        with self._timed(q.device), torch.no_grad():
            q, k = self._video(q, v), self._video(k, v)
            asked = self._tokens(q.device)
            mask = None if self._call.mask is None else self._call.mask[asked]
            mass, positions = pool_over_slots(q[asked], k, self._call.tokens, mask)
            self._read.append(layer)
            self._seen["mass"].append(mass)
            self._seen["positions"].append(positions)
            self._count(asked.numel(), k)
            if self._points:
                pointed = token_indices(self._points, 1, self._call.grid, q.device)[0]
                seen = None if self._call.mask is None else self._call.mask[pointed]
                self._seen["points"].append(attention_weights(q[pointed], k, seen))
                self._count(len(self._points), k)

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.cross_attention`."""
        if layer not in self._layers:
            return
        with self._timed(q.device), torch.no_grad():
            q, k = self._video(q, v), self._video(k, v)
            asked = self._tokens(q.device)
            weights = attention_weights(q[asked.flatten()], k).unflatten(1, tuple(asked.shape))
            self._seen["text"].append(weights.mean(dim=2))
            self._seen["maps"].append(weights.mean(dim=0))
            self._count(asked.numel(), k)

    def reading(self) -> AttentionReading:
        """What was seen, sink first and then from old to new."""
        call, (rows, columns) = self._call, self._call.grid
        with self._timed(self._seen["mass"][0].device):
            seen = {name: torch.stack(parts).cpu().numpy() for name, parts in self._seen.items() if parts}
        order = sorted(range(len(call.slots)), key=lambda i: _age(call.slots[i]))
        heads = seen["mass"].shape[1]
        positions = seen["positions"][:, order].reshape(-1, len(order), rows, columns)
        return AttentionReading(
            kind=call.kind,
            block=call.block,
            step=call.step,
            timestep=call.timestep,
            frames=call.frames,
            slots=tuple(call.slots[i] for i in order),
            layers=tuple(self._read),
            grid=call.grid,
            samples=self._samples,
            mass=seen["mass"][..., order],
            positions=positions if self._sampling.positions else None,
            text_mass=seen["text"],
            text_maps=seen["maps"],
            points=tuple(
                PointMap(
                    point=point,
                    weights=np.ascontiguousarray(
                        seen["points"][:, :, i].reshape(-1, heads, len(order), rows, columns)[:, :, order]
                    ),
                )
                for i, point in enumerate(self._sampling.points)
            ),
        )

    def _timed(self, device: torch.device) -> Stopwatch:
        self._watch = self._watch or Stopwatch(device)
        return self._watch

    def _video(self, x: Tensor, v: Tensor) -> Tensor:
        # The kernel computes in the values' type, so the side pass starts from the same numbers.
        if self._sampling.video >= len(x):
            raise ValueError(f"`video` must lie in 0..{len(x) - 1}, the batch, got {self._sampling.video}")
        return x[self._sampling.video].type_as(v)

    def _tokens(self, device: torch.device) -> Tensor:
        """Indices `[F, P]` of the sampled queries within the pass."""
        return token_indices(self._samples, len(self._call.frames), self._call.grid, device)

    def _count(self, queries: int, k: Tensor) -> None:
        self.flops += side_pass_flops(queries, *k.shape)


def _age(slot: Slot) -> tuple[int, int]:
    if slot.frame is None:
        return 2, 0
    return (0 if slot.role == "sink" else 1), slot.frame
