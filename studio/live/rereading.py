"""Reading the cache of a take that nobody watched: its blocks are made once more from the log, with the probes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from studio.events import DecodedBlock
from studio.live.engine import Engine, Models, Order, Texts
from studio.live.log import TakeLog
from studio.live.watching import BlockReading, Observer, Past
from studio.sampler import Block, BlockPlan

__all__ = ["reread"]


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
            engine = None
            continue
        at = record.block
        if engine is None or record.resumed or record.seed != log[at - 1].seed:
            orders = iter([each.order for each in log[at:]])
            engine = _engine(models, texts, log, at, latents, orders, looker, take, check)
        if engine.next() is None:
            return
        yield observer.readings[-1]


def past_of(log: TakeLog, latents: Sequence[Tensor], texts: Texts, at: int) -> Past:
    """What was made of a take before a block.

    Args:
        log: Its log.
        latents: The latents of each block.
        texts: Embeddings of prompts.
        at: The block.
    """
    text = texts(log[at - 1].order.text) if at else None
    return Past(latents=latents, prompts={record.segment: record.prompt for record in log[:at]}, text=text)


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
