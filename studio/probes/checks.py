"""Checks of a take while it is made: faults of the cache that would otherwise only be seen in the picture.

Source: the faults are those known of the public code of LongLive v1.0 and reported by its users: a sink left at zero,
keys and values of a stale prompt, cross-attention to the wrong text, and positions past the end of a table.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from studio.model.attention import Tap
from studio.model.cache import KVCache
from studio.model.dit import Condition, WanDiT
from studio.probes.faults import CacheFault, CacheWarning, FaultKind
from studio.probes.norms import slot_rms
from studio.probes.passes import Pass
from studio.sampler import BlockPlan

__all__ = ["HealthCheck"]

# A condition computed twice from the same text agrees far better than this, two texts far worse.
_SAME_TEXT = 1e-3


class HealthCheck:
    """Looks after a take; a listener of `Watch` over one cache at a time.

    Every fault is reported once, when it appears; if it goes away for a block and comes back, it is reported again.

    Args:
        dit: The network.
        table: Rotary positions that the model's table has, for models with an end; `None` for none.
        explode: Keys or values of a layer this many times as large as in the first block heard are a fault.
        tell: Takes each warning as it appears; `None` issues a Python warning of the category `CacheFault`.

    Raises:
        ValueError: If `table` is below 1, or `explode` not above 1.

    Attributes:
        warnings: Every warning so far.
    """

    def __init__(
        self,
        dit: WanDiT,
        *,
        table: int | None = None,
        explode: float = 10.0,
        tell: Callable[[CacheWarning], None] | None = None,
    ) -> None:
        if table is not None and table < 1:
            raise ValueError(f"`table` must be at least 1 position or None for no end, got {table}")
        if not explode > 1:
            raise ValueError(f"`explode` must be above 1, got {explode}")
        self._dit, self._table, self._explode, self._tell = dit, table, explode, tell or _warn
        self._entry: BlockPlan | None = None
        self._expected: tuple[Tensor, int, Condition] | None = None
        self._read: tuple[Tensor | Condition, Tensor] | None = None  # the pair that was found to fit last
        self._cache: Callable[[], KVCache | None] = lambda: None
        self._forget()
        self.warnings: list[CacheWarning] = []

    def plan(self, entries: Iterable[BlockPlan]) -> Iterator[BlockPlan]:
        """Pass a plan through, so that the text in force can be compared with it.

        Args:
            entries: The plan of a rollout.

        Yields:
            The same entries.
        """
        for entry in entries:
            self.expect(entry)
            yield entry
        self.expect(None)

    def expect(self, entry: BlockPlan | None) -> None:
        """Say what the next block is planned to be, where no whole plan is at hand.

        Args:
            entry: The plan's entry, or `None` for nothing known.
        """
        self._entry = entry

    def begin(self, call: Pass) -> Tap | None:
        """See `Listener.begin`."""
        if call.cache is None:
            return None
        if self._cache() is not call.cache:
            self._cache = weakref.ref(call.cache)
            self._forget()
        self._check_text(call)
        self._check_positions(call)
        if call.kind == "recache":
            self._recache, self._new_text = call, self._text is not None and not self._same_text(self._text, call.text)
        return None

    def end(self, call: Pass) -> None:
        """See `Listener.end`."""
        if call.cache is None or call.kind != "commit":
            return
        sizes = _sizes(call, call.cache)
        self._check_sizes(call, sizes)
        self._check_stale(call, sizes)
        self._known = {slot.frame: sizes[:, :, i] for i, slot in enumerate(call.slots)}
        self._text, self._recache = call.text, None
        self._active, self._found = self._found, set()

    def _forget(self) -> None:
        self._active: set[FaultKind] = set()  # faults of the block before
        self._found: set[FaultKind] = set()  # faults of the block under way
        self._first: np.ndarray | None = None
        self._known: dict[int | None, np.ndarray] = {}
        self._text: Tensor | Condition | None = None
        self._recache: Pass | None = None
        self._new_text = False

    # -- the checks ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _check_text(self, call: Pass) -> None:
        entry, before = self._entry, self._read
        if entry is None or "wrong_text" in self._found:
            return
        # Both are replaced where they change, never written into, so that a pair that fits is compared but once.
        if before is not None and before[0] is call.text and before[1] is entry.text:
            return
        if isinstance(call.text, Tensor):
            layer = None if _same(call.text, entry.text) else 0
        else:
            known, revision = self._expected, self._dit.revision
            if known is None or known[0] is not entry.text or known[1] != revision:
                known = self._expected = entry.text, revision, self._dit.condition(entry.text)
            layer = _first_difference(call.text, known[2])
        self._read = (call.text, entry.text) if layer is None else None
        if layer is not None:
            self._report(
                "wrong_text",
                call,
                layer=layer,
                message=f"the {call.kind} pass of block {call.block} attends to another text than that of its prompt "
                f"{entry.prompt}; compute the condition anew from the plan's text at every switch",
            )

    def _check_positions(self, call: Pass) -> None:
        if self._table is None or call.cache is None:
            return
        window = call.cache.config.positions == "window"
        last = len(call.slots) - 1 if window else max(call.frames)
        if last >= self._table:
            remedy = "use a shorter window" if window else 'use `positions="window"`, which has no end'
            self._report(
                "position_past_table",
                call,
                slot=len(call.slots) - 1,
                message=f"block {call.block} needs rotary position {last}, but the table has {self._table}; {remedy}",
            )

    def _check_sizes(self, call: Pass, sizes: np.ndarray) -> None:
        first = self._first = sizes.max(axis=2, keepdims=True) if self._first is None else self._first
        finite = np.isfinite(sizes)
        with np.errstate(invalid="ignore"):
            exploded = finite & (sizes > self._explode * first) & np.isfinite(first) & (first > 0)
        self._report_slots(
            "not_finite", call, ~finite, "{} not finite; go back to the last good block, and use float32 or bfloat16"
        )
        self._report_slots(
            "zero_slot", call, sizes == 0, "{} zero, so that every block looks at nothing there; "
            "recache from the take's latents, or clear the cache"
        )  # fmt: skip
        self._report_slots(
            "exploding_norm", call, exploded,
            f"{{}} more than {self._explode:g} times as large as at the start; recache, or clear the cache",
        )  # fmt: skip

    def _check_stale(self, call: Pass, sizes: np.ndarray) -> None:
        """After a recache every visible slot is of the new prompt, but for the block's own and a sink that is kept."""
        recache = self._recache
        planned = self._entry is not None and self._entry.policy == "recache"
        if recache is None and not planned:
            return
        keeps = recache is not None and len(recache.stored) < len(recache.frames)
        stale = []
        for index, slot in enumerate(call.slots):
            if slot.frame in call.frames or (keeps and slot.role == "sink"):
                continue
            if (slot.written, slot.block) != ("recache", call.block) or self._untouched(slot.frame, sizes[:, :, index]):
                stale.append(index)
        mask = np.zeros(sizes.shape, dtype=bool)
        mask[:, :, stale] = True
        self._report_slots(
            "stale_slot", call, mask, "{} still the old prompt's after the recache; recache once more before the "
            "block, or clear the cache"
        )  # fmt: skip

    @torch.no_grad()
    def _same_text(self, a: Tensor | Condition, b: Tensor | Condition) -> bool:
        first, second = (self._dit.condition(text) if isinstance(text, Tensor) else text for text in (a, b))
        return _first_difference(first, second) is None

    def _untouched(self, frame: int | None, now: np.ndarray) -> bool:
        """Whether a new text has left a slot as it was, to the last bit, in every layer that a text reaches."""
        before = self._known.get(frame)
        if not self._new_text or before is None or before.shape[1] < 2:
            return False
        return np.array_equal(before[:, 1:], now[:, 1:])

    # -- reporting ----------------------------------------------------------------------------------------------

    def _report_slots(self, kind: FaultKind, call: Pass, where: np.ndarray, message: str) -> None:
        """Report a fault of some slots, given as `[keys and values, layers, slots]`."""
        if not where.any():
            return
        order = sorted(range(len(call.slots)), key=lambda i: (call.slots[i].role != "sink", call.slots[i].frame or 0))
        slots = [rank for rank, index in enumerate(order) if where[:, :, index].any()]
        frames = [call.slots[order[rank]].frame for rank in slots]
        roles = "/".join(sorted({call.slots[order[rank]].role for rank in slots}))
        # A fault spreads, so the oldest slot that has it is where it came from.
        layer = int(np.flatnonzero(where[:, :, order[slots[0]]].any(axis=0))[0])
        subject = f"{roles} slots {slots} (latent frames {frames}, from layer {layer}) are"
        self._report(kind, call, layer=layer, slot=slots[0], message=f"block {call.block}: {message.format(subject)}")

    def _report(
        self, kind: FaultKind, call: Pass, *, message: str, layer: int | None = None, slot: int | None = None
    ) -> None:
        known = kind in self._active or kind in self._found
        self._found.add(kind)
        if not known:
            warning = CacheWarning(kind=kind, block=call.block, layer=layer, slot=slot, message=message)
            self.warnings.append(warning)
            self._tell(warning)


def _warn(warning: CacheWarning) -> None:
    warnings.warn(warning.message, CacheFault, stacklevel=2)


@torch.no_grad()
def _sizes(call: Pass, cache: KVCache) -> np.ndarray:
    """Root mean squares `[keys and values, layers, visible slots]`."""
    parts = [torch.stack([slot_rms(tensor, cache.tokens) for tensor in side]) for side in (cache.keys, cache.values)]
    return torch.stack(parts).cpu().numpy()[:, :, list(call.places)]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and not bool(_differ(a, b))


def _differ(a: Tensor, b: Tensor) -> Tensor:
    # Written so that NaN does not count as a difference: the sizes of keys and values tell of it.
    return (a.float() - b.float()).norm() > _SAME_TEXT * b.float().norm()


def _first_difference(a: Condition, b: Condition) -> int | None:
    """First layer in which two conditions differ, or `None`."""
    pairs = [pair for mine, other in zip(a.layers, b.layers, strict=True) for pair in zip(mine, other, strict=True)]
    if any(x.shape != y.shape for x, y in pairs):
        return next(index // 2 for index, (x, y) in enumerate(pairs) if x.shape != y.shape)
    # All of them are compared before a GPU is waited for.
    found = torch.stack([_differ(x, y) for x, y in pairs]).tolist()
    return found.index(True) // 2 if True in found else None
