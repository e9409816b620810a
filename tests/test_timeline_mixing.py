"""Blends and transitions: the shares of every prompt at every block, and their embeddings."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.live.texts import Texts, slerp
from studio.timeline import Marker, Mix, Segment, Timeline, Transition, Weighted, changes_at, mix_at, weights_over

FOX, SEA, MOON = "a red fox", "the blue sea", "the moon"


def line(*segments: Segment, length: int = 30) -> Timeline:
    return Timeline(segments, length)


def test_a_blend_is_a_share_of_each():
    blended = Segment(FOX, weight=1, blend=(Weighted(SEA, 2), Weighted(FOX, 1), Weighted(MOON, 0)))
    assert blended.parts == ((FOX, 0.5), (SEA, 0.5))
    assert line(blended).weights_at(3) == {FOX: 0.5, SEA: 0.5}


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_a_transition_takes_its_blocks(kind):
    soft = line(Segment(FOX), Segment(SEA, 4, transition=Transition(3, kind)))
    shares = [weights.get(SEA, 0.0) for weights in weights_over(soft, 2, 10)]
    assert shares == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [changes_at(soft, block) for block in range(9)] == [False] * 4 + [True] * 4 + [False]


def test_a_transition_goes_on_from_where_the_last_one_was():
    soft = line(Segment(FOX), Segment(SEA, 4, transition=Transition(3)), Segment(MOON, 5, transition=Transition(1)))
    assert soft.weights_at(4) == {FOX: 0.75, SEA: 0.25}
    assert soft.weights_at(5) == {FOX: 0.375, SEA: 0.125, MOON: 0.5}
    assert soft.weights_at(6) == {MOON: 1}


def test_the_first_segment_has_nothing_to_come_from():
    assert line(Segment(FOX, transition=Transition(4))).weights_at(0) == {FOX: 1}
    with pytest.raises(ValueError, match="`block`"):
        mix_at(line(Segment(FOX)), -1)


def test_a_chain_of_a_thousand_transitions_is_followed():
    many = Timeline(tuple(Segment(f"{FOX} {i}", i, transition=Transition(9, "spherical")) for i in range(2000)))
    mix = mix_at(many, 1999)
    assert len(mix.folds) == 1999
    assert sum(mix.weights.values()) == pytest.approx(1)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(0, 12), st.sampled_from(["linear", "spherical"]),
            st.sampled_from([FOX, SEA, MOON]), st.floats(0.1, 9),
        ),
        min_size=1, max_size=6,
    ),
    st.integers(0, 20),
    st.integers(-2, 12),
)  # fmt: skip
def test_a_stretch_has_the_shares_of_its_blocks_to_the_bit(parts, start, count):
    segments, at = [], 0
    for blocks, mixed, kind, prompt, weight in parts:
        transition = Transition(mixed, kind) if mixed else None
        segments.append(Segment(prompt, at, weight=weight, blend=(Weighted(SEA, 1.3),), transition=transition))
        at += blocks
    many = Timeline(tuple(segments))
    whole = [list(mix_at(many, block).weights.items()) for block in range(start, start + count)]
    assert [list(shares.items()) for shares in weights_over(many, start, start + count)] == whole


def test_a_preview_of_a_thousand_transitions_under_way_is_made_at_once():
    many = Timeline(tuple(Segment(f"{i}", i, transition=Transition(1000)) for i in range(1000)), 1000)
    began = time.process_time()
    shares = weights_over(many, 0, 1000)
    assert time.process_time() - began < 10
    assert len(shares) == 1000 and shares[-1] == mix_at(many, 999).weights
    with pytest.raises(ValueError, match="`block`"):
        weights_over(many, -1, 3)


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 8), st.sampled_from(["linear", "spherical"]), st.floats(0.1, 9)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_shares_add_up_to_one(parts):
    segments, start = [Segment(FOX)], 0
    for blocks, mixed, kind, weight in parts:
        start += blocks
        soft = Transition(mixed, kind) if mixed else None
        segments.append(Segment(SEA, start, transition=soft, blend=(Weighted(MOON, weight),)))
    for block in range(start + 10):
        shares = line(*segments, length=60).weights_at(block)
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Weighted("", 1), "must not be empty"),
        (lambda: Weighted(FOX, -1), "`weight`"),
        (lambda: Weighted(FOX, float("nan")), "got nan"),
        (lambda: Weighted(FOX, True), "got True"),
        (lambda: Transition(0), "transition.blocks"),
        (lambda: Transition(1.5), "got 1.5"),  # type: ignore[arg-type]
        (lambda: Transition(3, "cubic"), "`transition.kind` must be one of"),  # type: ignore[arg-type]
        (lambda: Transition(3, None), "got None"),  # type: ignore[arg-type]
        (lambda: Segment(FOX, blend=((SEA, 1),)), "must be a Weighted"),  # type: ignore[arg-type]
        (lambda: Segment(FOX, blend=SEA), "`blend` must be a sequence"),  # type: ignore[arg-type]
        (lambda: Segment(FOX, blend=(Weighted(SEA),) * 64), "fewer than 64"),
        (lambda: Segment(FOX, weight=0), "above 0 for some prompt"),
        (lambda: Segment(FOX, transition=3), "must be a Transition"),  # type: ignore[arg-type]
        (lambda: Marker(-1), "`block`"),
        (lambda: Marker(1, "a\x00"), "control characters"),
        (lambda: Marker(1, "", "red"), "`colour`"),
        (lambda: Timeline((Segment(FOX),), markers=(Marker(3), Marker(1))), "not in order"),
        (lambda: Timeline((Segment(FOX),), markers=(Marker(3), Marker(3))), "same block"),
        (lambda: Timeline((Segment(FOX),), markers=(3,)), "must be a Marker"),  # type: ignore[arg-type]
        (lambda: Timeline((Segment(FOX),), markers=3), "sequence of Marker"),  # type: ignore[arg-type]
    ],
)
def test_bad_parts(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# Embeddings


class Table:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.known = {prompt: torch.randn(1, 3, 8, generator=generator) for prompt in (FOX, SEA, MOON)}
        for text in self.known.values():
            text[:, 2] = 0  # padding

    def encode(self, prompts: list[str]) -> torch.Tensor:
        return self.known[prompts[0]]


def test_a_linear_mix_is_the_weighted_sum():
    table = Table()
    texts = Texts(table)
    mix = Mix(((FOX, 0.25), (SEA, 0.75)))
    torch.testing.assert_close(texts(mix), 0.25 * table.known[FOX] + 0.75 * table.known[SEA])
    assert texts(mix) is texts(mix)
    assert texts(Mix(((FOX, 1.0),))) is texts(FOX)


def test_a_spherical_mix_keeps_the_length():
    start, end = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    for share in (0.0, 0.3, 1.0):
        there = slerp(start, end, share)
        torch.testing.assert_close(there.norm(dim=-1), torch.ones(5))
        whole = (start * end).sum(-1).acos()
        torch.testing.assert_close((start * there).sum(-1).clamp(-1, 1).acos(), whole * share, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(slerp(start, start, 0.5), start)
    torch.testing.assert_close(slerp(start, torch.zeros_like(start), 0.5), start / 2)
    opposite = slerp(start, -start, 0.25)
    assert opposite.isfinite().all()


def test_folds_are_taken_in_turn():
    table = Table()
    texts = Texts(table)
    soft = line(Segment(FOX), Segment(SEA, 4, transition=Transition(3, "spherical")))
    torch.testing.assert_close(texts(soft.mix_at(5)), slerp(table.known[FOX], table.known[SEA], 0.5))
    hard = line(*soft.segments, Segment(MOON, 6, transition=Transition(1)))
    torch.testing.assert_close(
        texts(hard.mix_at(6)), 0.5 * slerp(table.known[FOX], table.known[SEA], 0.5) + 0.5 * table.known[MOON]
    )
