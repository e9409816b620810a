"""Rebuild the cache and the decoder's stream of a video from its latents, to go on from any of its blocks.

The sink is made again exactly: by the commits of the first blocks since it last began, under their own prompts and
policies. The window comes from one recache of the latest frames, or from the last recache of the video itself where
that is near. Early in a video this gives the very cache that the video had; later it gives the cache that a recache
at that block would have left. It depends on the latents and the orders alone, so that a replay repeats it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.live.orders import Order
from studio.live.texts import Texts
from studio.model.cache import KVCache
from studio.sampler import BlockPlan, commit, recache, switch


def rebuild_cache(
    dit: Any, cache: KVCache, texts: Texts, config: ModelConfig, latents: Sequence[Tensor], orders: Sequence[Order]
) -> None:
    """Fill a cache with what a video has made so far.

    Args:
        dit: the network.
        cache: a new cache.
        texts: embeddings of prompts.
        config: the model's configuration.
        latents: latents of all blocks so far, each `[1, f, C, H, W]`; at least one.
        orders: what each was made of.
    """
    _Rebuild(dit, cache, texts, config, latents, orders).run()


class _Rebuild:
    def __init__(
        self,
        dit: Any,
        cache: KVCache,
        texts: Texts,
        config: ModelConfig,
        latents: Sequence[Tensor],
        orders: Sequence[Order],
    ) -> None:
        self.dit, self.cache, self.texts, self.config = dit, cache, texts, config
        self.latents, self.orders = latents, orders
        self.room = max(1, cache.capacity // cache.block)

    def run(self) -> None:
        end = len(self.orders)
        limited = self.config.cache.attend is not None or self.cache.capacity % self.cache.block
        if self.config.cache.window is None or not self.config.cache.sink or limited:
            self._restore(end)
            self._recache(self.orders[-1])
            return
        start, recached = origin(self.orders, self.cache.block, self.cache.capacity, self.config.cache.sink_policy)
        self._restore(start, empty=not recached)
        ready = min(end, start + (1 if recached else self.room + 1))
        for block in range(start, ready):
            self._take(block, recached and block == start)
        if ready < end:
            self._jump(ready, end)

    def _jump(self, ready: int, end: int) -> None:
        """Leave out blocks whose keys and values are no longer there."""
        near = range(max(ready, end - self.room), end)
        last = max((block for block in near if self.orders[block].policy == "recache"), default=None)
        target = end if last is None else last
        self._restore(target, keep_sink=True)
        self._recache(self.orders[end - 1] if last is None else self.orders[last], "keep")
        for block in range(target, end):
            self._commit(block)

    def _take(self, block: int, recached: bool) -> None:
        order = self.orders[block]
        text = self.texts(order.text)
        plan = BlockPlan(text=text, prompt=order.number, policy=order.policy, sink_policy=order.sink_policy)
        if recached:
            self._recache(order)
        else:
            switch(self.dit, self.cache, text, self.config.sampler, plan)
        self._commit(block)

    def _restore(self, end: int, *, empty: bool = False, keep_sink: bool = False) -> None:
        first = end if empty else max(0, end - self.room)
        blocks = [self.latents[i] for i in range(first, end)] or [self.latents[0][:, :0]]
        recent = torch.cat(blocks, dim=1).to(self.cache.device)
        self.cache.restore(recent, end=end * self.cache.block, keep_sink=keep_sink)

    def _recache(self, order: Order, sink_policy: Any = None) -> None:
        recache(
            self.dit, self.cache, self.texts(order.text), self.config.sampler, prompt=order.number,
            sink_policy=sink_policy,
        )  # fmt: skip

    def _commit(self, block: int) -> None:
        order = self.orders[block]
        latents = self.latents[block].to(self.cache.device)
        commit(self.dit, self.cache, latents, self.texts(order.text), self.config.sampler, prompt=order.number)


def origin(orders: Sequence[Order], block: int, capacity: int, sink_policy: str) -> tuple[int, bool]:
    """Where the sink that a video has now began.

    Args:
        orders: what each block was made of.
        block: latent frames a block.
        capacity: latent frames in the cache.
        sink_policy: the model's own.

    Returns:
        The block, and whether its sink came from a recache that rewrote it, rather than from its own commit.
    """
    first, start, recached = 0, 0, False
    for i, order in enumerate(orders):
        frame = i * block
        if frame == first:
            continue
        if order.policy == "clear":
            first, start, recached = frame, i, False
        elif order.policy == "recache" and (order.sink_policy or sink_policy) == "rewrite" and frame - first > capacity:
            first, start, recached = frame - capacity, i, True
    return start, recached


def warm_blocks(vae: Any, block: int) -> int:
    """Blocks that a decoder must have seen before what came earlier cannot matter any more.

    Args:
        vae: the video VAE.
        block: latent frames a block.

    Returns:
        A number of blocks: every causal convolution looks back over `past` frames, of at least one a latent frame.
    """
    looks = sum(getattr(module, "past", 0) for module in vae.decoder.modules())
    return -(-looks // block) + 1


def rebuild_stream(vae: Any, latents: Sequence[Tensor], orders: Sequence[Order], block: int) -> Any:
    """The decoder's stream after some blocks, as if it had decoded them all, to the bit.

    Args:
        vae: the video VAE.
        latents: latents of all blocks so far, each `[1, f, C, H, W]`.
        orders: what each was made of; a cleared cache began another video.
        block: latent frames a block.

    Returns:
        The stream.
    """
    stream, like = vae.stream(), next(vae.parameters())
    first = max(_cut(len(latents), orders), len(latents) - warm_blocks(vae, block))
    for i in range(first, len(latents)):
        vae.decode(latents[i].to(like), stream)
    return stream


def goes_on(stream: Any, blocks: int, orders: Sequence[Order], block: int) -> bool:
    """Whether a decoder's stream is the one after some blocks, whole and not a block further.

    Args:
        stream: the stream, or None.
        blocks: blocks of the video so far.
        orders: what each was made of.
        block: latent frames a block.
    """
    return stream is not None and not stream.spoilt and stream.decoded == (blocks - _cut(blocks, orders)) * block


def _cut(blocks: int, orders: Sequence[Order]) -> int:
    """The block that the decoder's video began with: a cleared cache begins another one."""
    return max((i for i, order in enumerate(orders[:blocks]) if order.policy == "clear"), default=0)
