"""Reading the cache of a take that nobody watched: its blocks are made once more from the log, with the probes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.config import Policy, SinkPolicy
from studio.events import DecodedBlock
from studio.live.engine import Engine, Models, Order, Texts
from studio.live.log import BlockRecord, TakeLog
from studio.live.watching import BlockReading, Observer, Past
from studio.sampler import Block, BlockPlan, commit, switch

__all__ = ["past_of", "reread", "reread_block"]


def reread(
    log: TakeLog,
    models: Models,
    *,
    texts: Texts,
    latents: Sequence[Tensor],
    block: Callable[[int], DecodedBlock | None],
    take: int,
    observer: Observer,
    check: Callable[[], None] = lambda: None,
) -> Iterator[BlockReading]:
    """Make a take's blocks once more, the same bit for bit, and read what they see.

    Args:
        log: The log of the take.
        models: The networks that made it.
        texts: Embeddings of prompts.
        latents: The latents of each block.
        block: Gives the frames of a block.
        take: Number of the take.
        observer: Reads; one of its own for this.
        check: Called before every denoising step; it may raise to leave.

    Yields:
        The reading of each block that was generated; those that were given have none.
    """
    engine: Engine | None = None
    looker = _Looker(observer, block)
    for record in log:
        if record.given is not None:
            continue
        at = record.block
        if engine is None or _begins(log, at):
            orders = iter([each.order for each in log[at:]])
            engine = _engine(models, texts, log, at, latents, orders, looker, take, check)
        if engine.next() is None:
            return
        if observer.over:
            raise RuntimeError(observer.trouble or "the cache could not be read")
        yield observer.readings[-1]


def reread_block(
    log: TakeLog,
    models: Models,
    *,
    texts: Texts,
    latents: Sequence[Tensor],
    block: Callable[[int], DecodedBlock | None],
    take: int,
    observer: Observer,
    at: int,
    check: Callable[[], None] = lambda: None,
) -> BlockReading:
    """Make one block of a take once more, the same bit for bit, and read what it sees.

    The cache is filled again as it was: the blocks before are committed, one pass each, and their switches repeated.

    Args:
        log: As for `reread`, like all but the following.
        models: The networks that made it.
        texts: Embeddings of prompts.
        latents: The latents of each block, of those before `at` at least.
        block: Gives the frames of a block.
        take: Number of the take.
        observer: Reads; one of its own for this.
        at: The block.
        check: Called before every pass; it may raise to leave.

    Returns:
        Its reading.

    Raises:
        ValueError: If there is no such block, or it was given and not generated.
    """
    if not 0 <= at < len(log):
        raise ValueError(f"`block` must lie in 0..{len(log) - 1}, got {at}")
    if log[at].given is not None:
        raise ValueError(f"block {at} was given and not generated, so it looked at nothing; choose a later one")
    first = max(index for index in range(at + 1) if _begins(log, index))
    looker = _Looker(observer, block)
    orders = iter([log[at].order])
    engine = _engine(models, texts, log, first, latents, orders, looker, take, check)
    sampler = models.config.sampler
    with torch.inference_mode():
        for index in range(first, at):
            check()
            order = log[index].order
            text = texts(order.text)
            observer.prepare(engine, order.number, order.prompt)
            entry = BlockPlan(text=text, prompt=order.number, policy=order.policy, sink_policy=order.sink_policy)
            switch(models.dit, engine.cache, text, sampler, entry)
            given = latents[index].to(engine.cache.device)
            commit(models.dit, engine.cache, given, text, sampler, prompt=order.number)
    looker.observer.past = lambda: past_of(log, latents, texts, at)
    engine.next()
    if observer.over:
        raise RuntimeError(observer.trouble or "the cache could not be read")
    return observer.readings[-1]


def _begins(log: TakeLog, at: int) -> bool:
    """Whether an engine began at a block, with a cache that was filled for it."""
    return at == 0 or log[at - 1].given is not None or log[at].resumed or log[at].seed != log[at - 1].seed


def past_of(log: TakeLog, latents: Sequence[Tensor], texts: Texts, at: int) -> Past:
    """What was made of a take before a block.

    Args:
        log: Its log.
        latents: The latents of each block.
        texts: Embeddings of prompts.
        at: The block.
    """
    text = texts(log[at - 1].order.text) if at else None
    return Past(
        latents=latents,
        prompts={record.segment: record.prompt for record in log[:at]},
        text=text,
        switches=switches_of(log[:at]),
    )


def switches_of(records: Iterable[BlockRecord]) -> dict[int, tuple[Policy, SinkPolicy | None]]:
    """Policy and sink policy of every switch of a take's blocks, by block."""
    orders = {record.block: record.order for record in records}
    return {block: (order.policy, order.sink_policy) for block, order in orders.items() if order.policy is not None}


def _engine(
    models: Models,
    texts: Texts,
    log: TakeLog,
    at: int,
    latents: Sequence[Tensor],
    orders: Iterator[Order],
    looker: _Looker,
    take: int,
    check: Callable[[], None],
) -> Engine:
    engine = Engine(
        models, texts, seed=log[at].seed, order=lambda: next(orders, None), check=check, blocks=len(log), decode=False,
        take=take, observer=lambda: looker,
    )  # fmt: skip
    looker.observer.past = lambda: past_of(log, latents, texts, at)
    if at:
        engine.rebuild(list(latents[:at]), [record.order for record in log[:at]])
    return engine


class _Looker(Observer):
    """Stands between an engine without pixels and an observer that wants them."""

    def __init__(self, observer: Observer, block: Callable[[int], DecodedBlock | None]) -> None:
        # An engine asks for `begin` and `end` alone.
        self.observer, self._block = observer, block

    def begin(self, engine: Any, entry: BlockPlan, prompt: str) -> None:
        """See `Observer.begin`."""
        self.observer.begin(engine, entry, prompt)

    def end(self, engine: Any, block: Block, frames: np.ndarray) -> None:
        """See `Observer.end`."""
        made = self._block(block.index)
        self.observer.end(engine, block, frames if made is None else made.frames)
