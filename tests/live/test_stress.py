"""Many threads, many edits: whatever happens, the log, the timeline and the latents agree."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import threading
import time
import weakref

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.live import Session
from studio.live.turns import TURN, short_turns
from studio.timeline import Segment, Timeline
from tests.live.doubles import generators, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ("a red fox", "the blue sea", "a rabbit in the snow", "boom")
POLICIES = ("recache", "keep", "clear", None)


def agree(session: Session) -> None:
    """What was made is what the timeline says."""
    with session._core.changed:
        log, timeline, latents = session.log, session.timeline, session.latents
    assert len(log) == len(latents)
    assert [record.block for record in log] == list(range(len(log)))
    for before, record in zip([None, *log], log, strict=False):
        segment = timeline.segment_at(record.block)
        assert record.prompt == segment.prompt
        assert record.seed == timeline.seed
        if before is not None and record.prompt == before.prompt and record.policy in (None, "keep"):
            continue  # a mere cut, which may come and go in the past: it changes nothing
        assert (record.policy is not None) == (record.block > 0 and segment.start == record.block)
        if segment.policy is not None and record.policy is not None:
            assert record.policy == segment.policy


@pytest.mark.parametrize("seed", [1, 2])
def test_threads_that_steer_at_random(models, seed):
    events, failures = [], []
    over = threading.Event()
    with Session(models, timeline=Timeline.of(PROMPTS[0]), lead=2) as session:
        session.subscribe(events.append)

        def steer(number: int) -> None:
            dice = random.Random(100 * seed + number)
            while not over.is_set():
                act = dice.choice(acts)
                try:
                    with contextlib.suppress(ValueError):  # an edit may come too late
                        act(dice)
                except Exception as error:
                    failures.append(error)
                time.sleep(0.004 * dice.random())

        def switch(dice):
            session.switch(dice.choice(PROMPTS), policy=dice.choice(POLICIES))

        def later(dice):
            session.switch(dice.choice(PROMPTS[:3]), at=session.stats.generated_blocks + dice.randrange(4))

        def edit(dice):
            line = session.timeline
            session.timeline = dice.choice((line.remove, lambda i: line.edit(i, note="x")))(len(line.segments) - 1)

        def pause(dice):
            session.pause()

        def play(dice):
            session.play()

        def step(dice):
            session.step()

        def restart(dice):
            if dice.random() < 0.2:
                session.restart(dice.choice((None, 5)))

        def fork(dice):
            if dice.random() < 0.02:
                at = dice.randrange(session.stats.generated_blocks + 1)
                session.fork(at, prompt=dice.choice(PROMPTS[:3]), policy=dice.choice(POLICIES))

        def undo(dice):
            with contextlib.suppress(RuntimeError):
                session.undo()

        def look(dice):
            agree(session)

        def attach(dice):
            with session.attach() as consumer:
                consumer.played(session.stats.generated_frames)

        acts = (switch, switch, switch, later, edit, pause, play, play, step, restart, fork, undo, look, attach)

        def watch():
            with contextlib.suppress(RuntimeError), session.frames() as frames:
                for _ in frames:
                    if over.is_set():
                        break

        threads = [threading.Thread(target=steer, args=(i,)) for i in range(3)] + [threading.Thread(target=watch)]
        for thread in threads:
            thread.start()
        time.sleep(2.0)
        wait_for(lambda: sum(event.kind == "block" for event in events) > 3)
        over.set()
        session.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not failures, failures
        agree(session)
        blocks = [event.payload for event in events if event.kind == "block"]
        assert len(blocks) > 3
        for before, after in itertools.pairwise(blocks):
            assert (after.take, after.index) == (before.take, before.index + 1) or after.take > before.take
            assert after.take > before.take or after.first_frame == before.end_frame
        session.restart(1)
        session.timeline = Timeline.of(PROMPTS[1], length=2, seed=1)
        assert len(list(session.frames())) == 2
    assert not generators()


commands = st.lists(
    st.one_of(
        st.tuples(st.just("switch"), st.sampled_from(PROMPTS[:3]), st.sampled_from(POLICIES)),
        st.tuples(st.just("plan"), st.sampled_from(PROMPTS[:3]), st.integers(0, 3)),
        st.tuples(st.just("step"), st.just(""), st.integers(1, 2)),
        st.tuples(st.just("stop"), st.just(""), st.none()),
        st.tuples(st.just("policy"), st.sampled_from(POLICIES[:3]), st.none()),
    ),
    min_size=3,
    max_size=10,
)


@settings(max_examples=12)
@given(commands, st.integers(0, 5))
def test_any_course_replays_bit_for_bit(models, course, seed):
    with Session(models, timeline=Timeline.of(PROMPTS[0], seed=seed)) as session:
        for name, text, value in [*course, ("step", "", 1)]:
            made = session.stats.generated_blocks
            if name == "switch":
                session.switch(text, policy=value)
            elif name == "plan":
                session.switch(text, at=made + value)
            elif name == "stop":
                session.stop()
            elif name == "policy":
                session.policy = text
            else:
                for _ in range(value):
                    session.step()
                wait_for(lambda target=made + value: session.stats.generated_blocks == target)
                wait_for(lambda: session.state == "paused")
        agree(session)
        script, made = session.script, session.latents
    with Session(models, timeline=script) as again:
        list(again.frames())
        assert len(again.latents) == len(made)
        assert all(torch.equal(a, b) for a, b in zip(again.latents, made, strict=True))


def test_opening_and_closing_leaves_no_memory_and_no_thread(models):
    process = psutil.Process()

    def once() -> weakref.ref:
        with Session(models, timeline=Timeline((Segment(PROMPTS[0]), Segment(PROMPTS[1], 2)), 4)) as session:
            session.subscribe(lambda event: None)
            list(session.frames())
            return weakref.ref(session._core)

    first = [once() for _ in range(3)]
    gc.collect()
    assert not any(core() for core in first)
    threads, before = process.num_threads(), process.memory_info().rss
    for _ in range(8):
        once()
    gc.collect()
    assert process.num_threads() <= threads
    assert process.memory_info().rss - before < 30 * 2**20


def test_a_long_video_keeps_few_frames(models):
    with Session(models, timeline=Timeline.of(PROMPTS[0], length=30)) as session:
        session._core.take.ring.budget = 4 * 12 * 16 * 24 * 3
        cache = None
        for _ in session.frames():
            cache = cache or session._core.take.engine.cache.nbytes
        assert session._core.take.engine.cache.nbytes == cache
        held = [block.index for block in session._core.take.ring.held()]
        assert held == list(range(30 - len(held), 30))
        assert 4 <= len(held) <= 6
        assert len(list(session.frames(start=0))) == 30  # the rest is kept compressed


def test_short_turns_are_given_back():
    import sys

    before = sys.getswitchinterval()
    with short_turns():
        with short_turns():
            assert sys.getswitchinterval() <= TURN + 1e-9
        assert sys.getswitchinterval() <= TURN + 1e-9
    assert sys.getswitchinterval() == before
    sys.setswitchinterval(1e-4)
    try:
        with short_turns():
            assert sys.getswitchinterval() < 2e-4
    finally:
        sys.setswitchinterval(before)
