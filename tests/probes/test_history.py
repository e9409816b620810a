"""Provenance over a take against an independent model of the cache: a list of frames, not a ring of slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.config import CacheConfig, DiTConfig, SamplerConfig
from studio.model.cache import KVCache
from studio.model.dit import WanDiT
from studio.probes import History
from studio.sampler import BlockPlan, NoiseSource, rollout
from tests.contracts import tiny
from tests.probes import takes


class Model:
    """What the cache should hold, as frames with their origin, in plain lists.

    `seen` are the frames since the last clear (or sink rewrite); the first `sink` of them stay, the last `window` too.
    """

    def __init__(self, sink: int, window: int, sink_policy: str) -> None:
        self.sink, self.window, self.default = sink, window, sink_policy
        self.seen: list[int] = []
        self.origin: dict[int, tuple[int, str, int]] = {}

    def kept(self) -> list[int]:
        if len(self.seen) <= self.sink + self.window:
            return list(self.seen)
        return self.seen[: self.sink] + self.seen[-self.window :]

    def switch(self, policy, sink_policy, prompt, block) -> None:
        if policy == "clear":
            self.seen = []
        if policy != "recache" or not self.seen:
            return
        capacity = self.sink + self.window
        rolled = len(self.seen) > capacity
        if rolled and (sink_policy or self.default) == "rewrite":
            self.seen = self.seen[-capacity:]
            rewritten = list(self.seen)
        elif rolled:
            rewritten = self.seen[-self.window :]
        else:
            rewritten = list(self.seen)
        self.origin |= dict.fromkeys(rewritten, (prompt, "recache", block))

    def commit(self, block, prompt) -> None:
        frames = range(3 * block, 3 * block + 3)
        self.seen += frames
        self.origin |= dict.fromkeys(frames, (prompt, "commit", block))

    def slots(self):
        kept = self.kept()
        rows = [("sink" if i < self.sink else "window", frame, *self.origin[frame]) for i, frame in enumerate(kept)]
        return rows + [("empty", None, None, None, None)] * (self.sink + self.window - len(kept))


SMALL = DiTConfig(
    dim=8, ffn_dim=8, heads=1, layers=1, in_channels=1, out_channels=1, text_dim=2, text_len=1, freq_dim=2
)
ONE_STEP = SamplerConfig(steps=(1000,))
switches = st.dictionaries(
    st.integers(0, 13),
    st.tuples(st.sampled_from(["keep", "clear", "recache"]), st.sampled_from([None, "keep", "rewrite"])),
    max_size=6,
)


def small(config):
    torch.manual_seed(0)
    dit = WanDiT(SMALL).eval().requires_grad_(False)
    return dit, KVCache(config, SMALL, grid=(1, 1), latents=(1, 2, 2), block=3)


@settings(max_examples=150)
@given(
    st.integers(0, 4),
    st.sampled_from([3, 6, 9, 7]),
    st.sampled_from(["keep", "rewrite"]),
    st.integers(1, 14),
    switches,
)
def test_provenance_equals_the_model_for_any_switches(sink, window, sink_policy, blocks, switches):
    dit, cache = small(CacheConfig(sink=sink, window=window, sink_policy=sink_policy))
    history, model, prompt = History(cache), Model(sink, window, sink_policy), 0
    entries = []
    for block in range(blocks):
        policy, asked = switches.get(block, (None, None))
        prompt += block in switches
        text = torch.full((1, 1, 2), float(prompt))
        entries.append(BlockPlan(text=text, prompt=prompt, policy=policy, sink_policy=asked))
    for block in history.follow(rollout(dit, cache, entries, NoiseSource(0, (1, 3, 1, 2, 2)), ONE_STEP)):
        entry = entries[block.index]
        model.switch(entry.policy, entry.sink_policy, entry.prompt, block.index)
        model.commit(block.index, entry.prompt)
        snapshot = history.at(block.index)
        found = [(s.role, s.frame, s.prompt, s.written, s.block) for s in snapshot.slots]
        assert found == model.slots()
        assert (snapshot.prompt, snapshot.policy) == (entry.prompt, entry.policy)
        written = {row[2] for row in model.slots() if row[2] is not None}
        assert snapshot.prompts == tuple(sorted(written))
    assert history.blocks == tuple(range(blocks)) and len(history) == blocks


def recorded(blocks=4):
    dit, cache = tiny.dit(), tiny.cache()
    history = History(cache)
    last = list(history.follow(takes.roll(dit, cache, takes.plan(blocks, {2: ("recache", None)}))))[-1]
    return history, last, cache


def test_snapshots_stay_as_they_were():
    history, _, _ = recorded()
    assert [s.frame for s in history.at(0).slots if s.frame is not None] == [0, 1, 2]
    assert {s.written for s in history.at(2).slots[:6]} == {"recache"}


def test_rows_name_every_slot_of_every_block():
    history, _, cache = recorded()
    rows = history.rows()
    assert len(rows) == 4 * cache.capacity
    row = rows[2 * cache.capacity]
    assert row == {
        "block": 2, "in_force": 1, "policy": "recache", "slot": 0, "role": "sink", "frame": 0, "prompt": 1,
        "written": "recache", "written_at": 2,
    }  # fmt: skip


def test_a_block_is_recorded_once():
    history, last, _ = recorded()
    with pytest.raises(RuntimeError, match="recorded already"):
        history.record(last)


def test_a_block_is_recorded_before_the_next_is_made():
    dit, cache = tiny.dit(), tiny.cache()
    first, _ = list(takes.roll(dit, cache, takes.plan(2)))
    with pytest.raises(RuntimeError, match="before the next one is made"):
        History(cache).record(first)


def test_a_block_that_was_not_recorded_is_named():
    with pytest.raises(KeyError, match="block 9 is not recorded"):
        recorded()[0].at(9)
