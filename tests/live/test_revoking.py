"""A live switch while a block is under way: it begins again under the new prompt, or is left alone."""

from __future__ import annotations

import pytest
import torch

from studio.live import Session
from studio.timeline import Segment, Timeline
from tests.live.doubles import Blocker, generators, tiny_models, wait_for

FOX, SEA, SNOW = "a red fox runs", "the blue sea", "a rabbit in the snow"
# Passes of a block: two denoising steps and the commit; a recache is one more.
FIRST, LAST, COMMIT = 1, 2, 3


@pytest.fixture
def models():
    return tiny_models()


@pytest.fixture(autouse=True)
def _all_threads_end():
    yield
    assert not generators()


def call(block: int, step: int) -> int:
    return 3 * block + step


def under_way(session: Session, models, at: int, shown: int = 30):
    """Play until a pass of the network is about to run; gives the consumer and what holds the pass."""
    consumer, blocker = session.attach(), Blocker(models, call=at)
    consumer.played(shown)
    session.play()
    assert blocker.reached.wait(60)
    return consumer, blocker


def made(session: Session, blocks: int) -> list[tuple[str, str | None]]:
    wait_for(lambda: session.stats.generated_blocks >= blocks)
    return [(record.prompt, record.policy) for record in session.log][:blocks]


def straight(models, timeline: Timeline) -> list[torch.Tensor]:
    with Session(models, timeline=timeline) as session:
        list(session.frames())
        return session.latents


def equal(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def begun(models):
    """A session whose block 1 is in its first step, and what holds it there."""
    with Session(models, timeline=Timeline.of(FOX)) as session:
        _consumer, blocker = under_way(session, models, call(1, FIRST))
        yield session, blocker


@pytest.mark.parametrize("policy", ["recache", "keep", "clear"])
@pytest.mark.parametrize("block", [1, 4])
def test_a_block_in_its_first_steps_begins_again(models, policy, block):
    line = Timeline((Segment(FOX),), 6)
    with Session(models, timeline=line) as session:
        _consumer, blocker = under_way(session, models, call(block, FIRST), shown=80)
        switch = session.switch(SEA, policy=policy)
        assert switch.effective_block == block
        assert session.timeline.segments == (Segment(FOX), Segment(SEA, block, policy=policy))
        blocker.remove()
        wanted = [(FOX, None)] * block + [(SEA, policy)] + [(SEA, None)] * (5 - block)
        assert made(session, 6) == wanted
        shown = session.block(block)
        assert shown.switch.latency_s == session.stats.switch_latency_s > 0
        assert (shown.prompt, shown.segment) == (SEA, 1)
        timeline, latents = session.timeline, session.latents
    assert equal(latents, straight(models, timeline))


@pytest.mark.parametrize("step", [LAST, COMMIT])
def test_a_block_in_its_last_step_is_left_alone(models, step):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        _consumer, blocker = under_way(session, models, call(1, step))
        assert session.switch(SEA).effective_block == 2
        blocker.remove()
        assert made(session, 3) == [(FOX, None), (FOX, None), (SEA, "recache")]


def test_the_first_block_is_left_alone(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        _consumer, blocker = under_way(session, models, call(0, FIRST))
        assert session.switch(SEA).effective_block == 1
        blocker.remove()
        assert made(session, 2) == [(FOX, None), (SEA, "recache")]


@pytest.mark.parametrize("policy", ["recache", "clear"])
def test_a_block_that_began_with_a_recache_or_a_clear_is_left_alone(models, policy):
    line = Timeline((Segment(FOX), Segment(SEA, 1, policy=policy)))
    passes = 4 if policy == "recache" else 3
    with Session(models, timeline=line) as session:
        _consumer, blocker = under_way(session, models, passes + FIRST)
        assert session.switch(SNOW).effective_block == 2
        blocker.remove()
        assert made(session, 2) == [(FOX, None), (SEA, policy)]


def test_an_edit_does_not_reach_a_block_under_way(begun):
    session, blocker = begun
    with pytest.raises(ValueError, match="not begun, 2 or later, got 1"):
        session.switch(SEA, at=1)
    with pytest.raises(ValueError, match="the past cannot be edited"):
        session.timeline = session.timeline.put(Segment(SEA, 1))
    blocker.remove()
    assert made(session, 2) == [(FOX, None)] * 2


def test_the_last_of_several_switches_wins(begun):
    session, blocker = begun
    assert [session.switch(prompt).effective_block for prompt in (SEA, SNOW)] == [1, 1]
    blocker.remove()
    assert made(session, 2) == [(FOX, None), (SNOW, "recache")]
    assert session.timeline.segments == (Segment(FOX), Segment(SNOW, 1, policy="recache"))


def test_a_prompt_that_cannot_be_read_stops_there_and_is_mended_there(begun):
    session, blocker = begun
    session.switch("boom")
    blocker.remove()
    wait_for(lambda: session.error)
    assert "choked on boom" in session.error.message
    assert session.switch(SEA).effective_block == 1
    session.play()
    assert made(session, 2) == [(FOX, None), (SEA, "recache")]


def test_leaving_the_take_leaves_no_block_open(begun):
    session, blocker = begun
    session.switch(SEA)
    session.restart()
    blocker.remove()
    assert made(session, 1) == [(FOX, None)]
    assert session.timeline.segments[1:] == (Segment(SEA, 1, policy="recache"),)


def test_a_pause_after_the_switch_ends_with_the_block_made_again(begun):
    session, blocker = begun
    session.switch(SEA)
    session.pause()
    blocker.remove()
    wait_for(lambda: session.state == "paused")
    assert made(session, 2) == [(FOX, None), (SEA, "recache")]


def test_who_watches_sees_the_whole_cache_before_the_switch_and_no_fault(models):
    block = 5
    with Session(models, timeline=Timeline((Segment(FOX),), 7)) as session, session.watch() as watching:
        _consumer, blocker = under_way(session, models, call(block, FIRST), shown=80)
        assert session.switch(SEA).effective_block == block
        blocker.remove()
        wait_for(lambda: watching.at(6))
        assert not watching.warnings
        assert watching.trouble is None
        reading, before = watching.at(block), watching.at(block - 1)
        assert reading is not None
        assert before is not None
        assert reading.before == before.slots
        assert {slot.written for slot in reading.slots if slot.frame not in reading.own and slot.role == "window"} == {
            "recache"
        }
        assert reading.prompt == SEA
        script = session.script
    assert [(segment.prompt, segment.start) for segment in script.segments] == [(FOX, 0), (SEA, block)]
