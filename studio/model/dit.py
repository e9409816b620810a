"""The diffusion transformer: Wan2.1's network, bidirectional or causal by the context it is given.

Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314); causal use as in CausVid, Self-Forcing and LongLive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from studio.config import DiTConfig
from studio.model.attention import CachedContext, Context, FullContext, Tap
from studio.model.backends import Backend
from studio.model.fused import Fused
from studio.model.layers import Block, Head, PromptKV, sinusoid
from studio.model.replay import Replays
from studio.model.rope import rotary

__all__ = ["Condition", "WanDiT"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A prompt ready for cross-attention: keys and values of every layer, computed once a prompt.

    Args:
        layers: One pair of keys and values `[B, Lt, N, D]` a layer.
    """

    layers: tuple[PromptKV, ...]


class WanDiT(nn.Module):
    """Predicts the flow of noisy latents under a prompt.

    Args:
        config: Sizes of the network.

    Attributes:
        held: Type of the keys and values that a cache of it holds; `None` for that of the weights.
        fused: Runs the blocks over the cache faster, see `fuse`; `None`: they run one by one.
        replays: Replays passes over the cache that were recorded, see `fuse`; `None`: each is run as it is.
        revision: How often adapters were put beside the weights, weighed, taken away or merged into them. A condition
            is good for the revision that it was made under.

    Source: Wan2.1, `wan/modules/model.py`; state-dict keys are the official ones.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_channels, config.dim, config.patch, config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, config.dim * 6))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        self.held: torch.dtype | None = None
        self.fused: Fused | None = None
        self.replays: Replays | None = None
        self.revision = 0

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights for training from scratch: Xavier linears, a zero output head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for embedding in (self.text_embedding, self.time_embedding):
            for module in embedding:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def fuse(self, *, compiled: bool = True, recorded: bool = False) -> WanDiT:
        """From now on run the blocks over the cache in few large pieces: faster, the same up to rounding.

        Call it when the weights are in their place and type; moving or replacing them afterwards needs another call.

        Args:
            compiled: Whether the pieces are compiled; the first pass then takes a minute.
            recorded: Whether passes that come by again are recorded and replayed as CUDA graphs. Where that fails they
                are run as they are, and `replays.fault` says why.

        Returns:
            The network itself.
        """
        self.fused = Fused(self.blocks, compiled=compiled)
        self.replays = Replays(self._run, self) if recorded else None
        return self

    @property
    def backend(self) -> Backend:
        """What computes attention."""
        return cast(Block, self.blocks[0]).self_attn.backend

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.patch_embedding.weight.dtype

    @property
    def cache_dtype(self) -> torch.dtype:
        """Type of a cache's keys and values."""
        return self.held or self.dtype

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Token rows and columns of latents `[B, F, C, H, W]`."""
        return latents.shape[-2] // self.config.patch[1], latents.shape[-1] // self.config.patch[2]

    def condition(self, text: Tensor) -> Condition:
        """Compute every layer's keys and values of a prompt.

        Args:
            text: Text embeddings `[B, text_len, text_dim]`, zero after the valid rows.

        Returns:
            The condition, to be given to `forward` in place of the text.

        Raises:
            ValueError: If the shape is not the configuration's.
        """
        expected = (self.config.text_len, self.config.text_dim)
        if text.dim() != 3 or tuple(text.shape[1:]) != expected:
            raise ValueError(f"`text` must have shape [B, {expected[0]}, {expected[1]}], got {list(text.shape)}")
        embedded = self.text_embedding(text.to(self.dtype))
        return Condition(layers=tuple(cast(Block, block).cross_attn.prompt(embedded) for block in self.blocks))

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding `[B, M, dim]` and block modulation `[B, M, 6, dim]` of timesteps `[B]` or `[B, M]`."""
        timestep = timestep if timestep.dim() == 2 else timestep.unsqueeze(1)
        wave = sinusoid(timestep.flatten(), self.config.freq_dim)
        time = self.time_embedding(wave.to(self.dtype))
        modulation = self.time_projection(time).float()
        shape = tuple(timestep.shape)
        return time.float().unflatten(0, shape), modulation.unflatten(1, (6, -1)).unflatten(0, shape)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        text: Tensor | Condition,
        *,
        context: Context | None = None,
        tap: Tap | None = None,
        flow: bool = True,
    ) -> Tensor:
        """Predict the flow, or only write the cache.

        Args:
            x: Noisy latents `[B, F, C, H, W]`.
            timestep: 1000 * sigma, `[B]` for the whole clip or `[B, F]` for each latent frame.
            text: Text embeddings `[B, text_len, text_dim]`, or the condition made of them.
            context: What self-attention can see; `None` for the bidirectional network over the clip itself.
            tap: Listener to attention, or `None`.
            flow: Whether the flow is wanted. Without it the last layer of a pass over the cache ends where its keys and
                values are stored, unless a tap or a hook listens.

        Returns:
            The flow noise - x0, `[B, F, C, H, W]`; no elements where the last layer ended early.

        Raises:
            ValueError: If the latents' channels or sizes do not fit the network.
        """
        self._check(x, timestep)
        condition = text if isinstance(text, Condition) else self.condition(text)
        if context is None:
            positions = torch.arange(x.shape[1], device=x.device)
            context = FullContext(rotary(positions, *self.grid(x), self.config.head_dim))
        flow = flow or tap is not None or bool(self._forward_hooks) or not isinstance(context, CachedContext)
        if self.replays is not None and tap is None and self.replays.runs(context):
            # The first noise may be finer than the weights; here it is rounded as the first layer would.
            replayed = self.replays(
                x.to(self.dtype), timestep, condition, cast(CachedContext, context), self.backend, flow
            )
            if replayed is not None:
                return replayed
        return self._run(x, timestep, condition.layers, context, tap, flow)

    def _run(
        self,
        x: Tensor,
        timestep: Tensor,
        prompt: tuple[PromptKV, ...],
        context: Context,
        tap: Tap | None = None,
        flow: bool = True,
    ) -> Tensor:
        time, modulation = self.embed_time(timestep)
        tokens = self._patchify(x)
        if self.fused is not None and self.fused.runs(context):
            tokens = self.fused(tokens, modulation, prompt, cast(CachedContext, context), tap, flow)
        else:
            for layer, block in enumerate(self.blocks):
                if layer + 1 == len(self.blocks) and not flow:
                    cast(Block, block).store(tokens, modulation, cast(CachedContext, context), layer)
                    break
                tokens = block(tokens, modulation, prompt[layer], context, layer, tap)
        if not flow:
            return x.new_empty(0)
        _, height, width = self.config.patch
        rows, columns = self.grid(x)
        return rearrange(
            self.head(tokens, time),
            "b (f h w) (p q c) -> b f c (h p) (w q)",
            h=rows,
            w=columns,
            p=height,
            q=width,
        )

    def _patchify(self, x: Tensor) -> Tensor:
        # The patch spans one latent frame, so the 3-D convolution is a linear map of each patch.
        _, height, width = self.config.patch
        patches = rearrange(x, "b f c (h p) (w q) -> b (f h w) (c p q)", p=height, q=width)
        weight = self.patch_embedding.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.patch_embedding.bias)

    def _check(self, x: Tensor, timestep: Tensor) -> None:
        _, height, width = self.config.patch
        if x.dim() != 5 or x.shape[2] != self.config.in_channels:
            raise ValueError(f"`x` must have shape [B, F, {self.config.in_channels}, H, W], got {list(x.shape)}")
        if x.shape[3] % height or x.shape[4] % width:
            raise ValueError(f"`x` must have rows and columns in multiples of {height}, {width}, got {list(x.shape)}")
        allowed = [tuple(x.shape[:1]), (x.shape[0], 1), tuple(x.shape[:2])]
        if tuple(timestep.shape) not in allowed:
            raise ValueError(f"`timestep` must have shape [B] or [B, F] of {list(x.shape)}, got {list(timestep.shape)}")
