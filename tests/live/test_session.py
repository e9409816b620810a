from __future__ import annotations

import dataclasses
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from studio.events import STATES
from studio.live import Session
from studio.live.open import open as open_session
from studio.timeline import Segment, Timeline
from studio.widgets.source import FrameSource
from tests.live.doubles import Blocker, generators, tiny_models, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

FOX, SEA, SNOW = "a red fox runs", "the blue sea", "a rabbit in the snow"


@pytest.fixture
def models():
    return tiny_models()


@pytest.fixture
def session(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        yield session
    assert not generators()


def take(session: Session, blocks: int) -> list[np.ndarray]:
    with session.frames() as frames:
        return list(itertools.islice(frames, blocks))


def fail(*_):
    raise RuntimeError("mine")


def latents_of(models, timeline: Timeline, **options) -> list[torch.Tensor]:
    with Session(models, timeline=timeline, **options) as session:
        list(session.frames())
        return session.latents


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# Playing


def test_a_timeline_with_a_length_plays_to_its_end(models):
    with Session(models, timeline=Timeline((Segment(FOX), Segment(SEA, 2)), 4)) as session:
        assert session.state == "idle"
        frames = list(session.frames())
        assert [len(block) for block in frames] == [9, 12, 12, 12]
        assert all(block.shape[1:] == (16, 24, 3) and block.dtype == np.uint8 for block in frames)
        assert not frames[0].flags.writeable
        assert session.state == "finished"
        assert [(r.block, r.first_frame, r.prompt, r.policy) for r in session.log] == [
            (0, 0, FOX, None),
            (1, 9, FOX, None),
            (2, 21, SEA, "recache"),
            (3, 33, SEA, None),
        ]
        assert list(session.frames()) == []
        session.play()
        assert session.state == "finished"


def test_frames_are_the_streamed_decode_of_the_latents(models):
    with Session(models, timeline=Timeline.of(FOX, length=3)) as session:
        frames = np.concatenate(list(session.frames()))
        whole = torch.cat(session.latents, dim=1)
    with torch.no_grad():
        pixels = models.vae.decode(whole)[0].permute(0, 2, 3, 1)
    assert np.abs((pixels.numpy() + 1) * 127.5 - frames).max() <= 0.51


def test_latents_may_be_trained_on(session):
    take(session, 2)
    weight = torch.ones((), requires_grad=True)
    (session.latents[1] * weight).sum().backward()
    assert weight.grad is not None


def test_it_is_a_frame_source(session):
    assert isinstance(session, FrameSource)
    assert (session.name, session.fps, session.width, session.height) == ("tiny", 16, 24, 16)
    assert session.device == "CPU, 1 thread"
    assert "tiny" in repr(session)


def test_without_a_consumer_it_waits(session):
    session.play()
    wait_for(lambda: session.state == "waiting")
    time.sleep(0.1)
    assert session.stats.generated_blocks == 0


def test_a_live_switch_does_not_wait_for_the_playhead(models):
    """What is buffered is a block more then, and never two, however often the prompt is changed."""
    with Session(models, timeline=Timeline.of(FOX)) as session:
        seat = session.attach()
        session.play()
        wait_for(lambda: session.state == "waiting")
        assert session.stats.generated_blocks == 2
        later = session.switch(SNOW, at=5)
        wait_for(lambda: session.state == "waiting")
        assert (later.effective_block, session.stats.generated_blocks) == (5, 2)
        assert session.switch(SEA).effective_block == 2
        wait_for(lambda: session.stats.generated_blocks == 3 and session.state == "waiting")
        assert session.switch(FOX).effective_block == 3
        wait_for(lambda: session.state == "waiting")
        assert session.stats.generated_blocks == 3
        seat.played(session.timeline.start_frame(1))
        wait_for(lambda: session.stats.generated_blocks == 4 and session.state == "waiting")
        seat.played(session.timeline.start_frame(2))
        wait_for(lambda: session.state == "waiting")
        assert session.stats.generated_blocks == 4
        session.pause()
        assert session.switch(SEA).effective_block == 4
        assert session.stats.generated_blocks == 4


@pytest.mark.parametrize("lead", [1, 3])
def test_the_slowest_consumer_bounds_the_lead(models, lead):
    with Session(models, timeline=Timeline.of(FOX), lead=lead) as session:
        slow, fast = session.attach(), session.attach()
        session.play()
        wait_for(lambda: session.state == "waiting")
        assert session.stats.generated_blocks == 1 + lead
        fast.played(100)
        slow.played(8)
        time.sleep(0.05)
        assert session.stats.generated_blocks == 1 + lead
        slow.played(9)
        wait_for(lambda: session.stats.generated_blocks == 2 + lead)
        wait_for(lambda: session.state == "waiting")
        assert session.stats.lead_s == (session.timeline.start_frame(2 + lead) - 9) / 16
        slow.close()
        wait_for(lambda: session.stats.generated_blocks == 9 + lead)
        fast.close()
        fast.close()


def test_a_dropped_consumer_counts_as_closed(session):
    slow, fast = session.attach(), session.attach()
    fast.played(50)
    session.play()
    wait_for(lambda: session.stats.generated_blocks == 2)
    del slow
    wait_for(lambda: session.stats.generated_blocks == 6)


def test_the_playhead_may_be_reported_without_a_handle(session):
    session.play()
    session.played(21)
    wait_for(lambda: session.stats.generated_blocks == 4)


def test_reports_for_another_take_are_ignored(session):
    consumer = session.attach()
    session.play()
    wait_for(lambda: session.stats.generated_blocks == 2)
    session.restart()
    consumer.played(100, take=0)
    wait_for(lambda: session.stats.generated_blocks == 2)
    time.sleep(0.05)
    assert session.stats.generated_blocks == 2
    consumer.played(9, take=1)
    wait_for(lambda: session.stats.generated_blocks == 3)
    for bad in (-1, 1.5, None, "3", float("nan")):
        with pytest.raises(ValueError, match="`frame` must be a whole number"):
            consumer.played(bad)  # type: ignore[arg-type]


def test_a_loop_that_is_left_detaches_and_can_be_taken_up(session):
    take(session, 2)
    made = wait_for(lambda: session.state == "waiting") and session.stats.generated_blocks
    time.sleep(0.05)
    assert session.stats.generated_blocks == made <= 4
    with session.frames() as frames:
        assert frames.next_block().index == 2
    dropped = session.frames(start=0)
    assert dropped.next_block().index == 0
    del dropped
    with pytest.raises(ValueError, match="`start`"):
        session.frames(start=-1)


def test_a_loop_ended_by_an_exception_detaches(session):
    """Notebooks keep the last traceback, and with it what its frames hold."""

    def interrupted():
        for _ in session.frames():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        interrupted()
    assert kept.value.__traceback__ is not None
    assert session._core.gate.seats() == []


def test_pause_takes_effect_at_the_next_block(models):
    with Session(models, timeline=Timeline.of(FOX, length=5), lead=8) as session:
        consumer, blocker = session.attach(), Blocker(models, call=4)
        session.play()
        assert blocker.reached.wait(60)
        session.pause()
        assert session.state == "playing"
        blocker.remove()
        wait_for(lambda: session.state == "paused")
        assert session.stats.generated_blocks == 2
        session.play()
        wait_for(lambda: session.state == "finished")
        paused = session.latents
        consumer.close()
    assert equal(paused, latents_of(models, Timeline.of(FOX, length=5)))


def test_step_makes_one_block_and_pauses(session):
    session.step()
    wait_for(lambda: session.state == "paused")
    assert session.stats.generated_blocks == 1
    session.step()
    session.step()
    wait_for(lambda: session.stats.generated_blocks == 3)
    wait_for(lambda: session.state == "paused")
    assert session.block(2).first_frame == 21
    assert session.block(3) is None


def test_stop_ends_the_thread_and_play_goes_on(models):
    line = Timeline((Segment(FOX), Segment(SEA, 3)), 5)
    with Session(models, timeline=line) as session:
        take(session, 2)
        session.stop()
        assert not generators()
        assert session.state == "paused"
        assert len(list(session.frames())) == 3
        assert equal(session.latents, latents_of(models, line))


def test_stop_ends_a_loop(session):
    seen = []
    for frames in session.frames():
        seen.append(frames)
        if len(seen) == 3:
            threading.Thread(target=session.stop).start()
    assert len(seen) >= 3
    wait_for(lambda: session.state == "paused")


# Switching


def test_a_switch_takes_effect_at_the_next_block_not_begun(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        consumer, blocker = session.attach(), Blocker(models, call=5)
        session.play()
        assert blocker.reached.wait(60)  # inside block 1
        consumer.played(7)
        asked = session.switch(SEA, policy="keep")
        assert (asked.requested_frame, asked.requested_block) == (7, 0)
        assert (asked.effective_block, asked.effective_frame) == (2, 21)
        assert asked.latency_s is None
        assert session.timeline.segments == (Segment(FOX), Segment(SEA, 2, policy="keep"))
        blocker.remove()
        consumer.played(21)
        wait_for(lambda: session.stats.generated_blocks == 4)
        assert [(r.prompt, r.policy, r.requested_frame) for r in session.log] == [
            (FOX, None, None),
            (FOX, None, None),
            (SEA, "keep", 7),
            (SEA, None, None),
        ]
        shown = session.block(2)
        assert shown.switch.latency_s == session.stats.switch_latency_s > 0
        assert (shown.prompt, shown.segment) == (SEA, 1)
        assert session.block(1).switch is None


def test_a_later_switch_replaces_one_of_the_same_block(session):
    session.switch(SEA)
    session.switch(SNOW)
    assert session.timeline.segments == (Segment(SNOW),)
    session.switch(SEA, at=3)
    session.switch(FOX, at=3, policy="clear", sink_policy="rewrite")
    assert session.timeline.segments == (Segment(SNOW), Segment(FOX, 3, policy="clear", sink_policy="rewrite"))
    take(session, 5)
    assert [r.prompt for r in session.log[:4]] == [SNOW, SNOW, SNOW, FOX]
    assert session.block(3).switch.policy == "clear"
    assert session.block(3).switch.latency_s is None


def test_switches_and_plans_mix(models):
    line = Timeline((Segment(FOX), Segment(SNOW, 4)), 6)
    with Session(models, timeline=line) as session:
        session.switch(SEA, at=2)
        list(session.frames())
        assert [r.prompt for r in session.log] == [FOX, FOX, SEA, SEA, SNOW, SNOW]
        assert equal(session.latents, latents_of(models, session.timeline))


def test_the_log_replays_even_when_the_policy_was_changed_under_way(models):
    line = Timeline((Segment(FOX), Segment(SEA, 2), Segment(FOX, 4), Segment(SNOW, 6)))
    with Session(models, timeline=line, policy="keep") as session:
        with pytest.raises(ValueError, match="play first"):
            session.script  # noqa: B018
        take(session, 3)
        session.policy = "clear"
        take(session, 3)
        session.pause()
        wait_for(lambda: session.state == "paused")
        script, made = session.script, session.latents
    assert "keep" in {segment.policy for segment in script.segments}
    assert equal(latents_of(models, script), made)


@pytest.mark.parametrize("policy", ["recache", "keep", "clear"])
def test_policies_change_what_follows_and_nothing_before(models, policy):
    line = Timeline((Segment(FOX), Segment(SEA, 2, policy=policy)), 4)
    ours = latents_of(models, line)
    plain = latents_of(models, Timeline.of(FOX, length=4))
    assert equal(ours[:2], plain[:2])
    assert not torch.equal(ours[2], plain[2])
    for other in {"recache", "keep", "clear"} - {policy}:
        theirs = latents_of(models, Timeline((Segment(FOX), Segment(SEA, 2)), 4), policy=other)
        assert not torch.equal(ours[2], theirs[2])
    assert equal(ours, latents_of(models, Timeline((Segment(FOX), Segment(SEA, 2)), 4), policy=policy))


def test_live_switches_replay_bit_for_bit(models):
    """The timeline that steering leaves behind is the event log: it gives the same latents again."""
    with Session(models, timeline=Timeline.of(FOX, seed=11), lead=2) as session:
        frames = session.frames()
        for i, prompt in enumerate([SEA, SNOW, FOX, SEA]):
            for _ in range(1 + i % 2):
                next(frames)
            time.sleep(0.003 * i)
            session.switch(prompt, policy=("recache", "keep", "clear")[i % 3])
        for _ in range(4):
            next(frames)
        session.pause()
        wait_for(lambda: session.state == "paused")
        made, log = session.latents, session.log
        line = session.timeline.with_length(len(made))
    with Session(models, timeline=line) as again:
        list(again.frames())
        assert equal(again.latents, made)
        assert [(r.prompt, r.policy, r.seed) for r in again.log] == [(r.prompt, r.policy, r.seed) for r in log]


def test_each_prompt_is_encoded_once(models):
    latents_of(models, Timeline((Segment(FOX), Segment(SEA, 1), Segment(FOX, 2), Segment(SEA, 3)), 4))
    assert models.text.calls == [FOX, SEA]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "must not be empty"),
        ({"prompt": "x" * 10_000}, "at most 2000 characters"),
        ({"prompt": "a\x00"}, r"U\+0000"),
        ({"prompt": None}, "must be a string"),
        ({"policy": "recahce"}, 'did you mean "recache"'),
        ({"sink_policy": "drop"}, "`sink_policy`"),
        ({"at": 0}, "has not begun.*got 0; use"),
        ({"at": 1.5}, "whole number"),
        ({"at": -1}, "whole number"),
        ({"at": 99}, "lengthen it.*with_length.100."),
    ],
)
def test_a_bad_switch_is_refused_and_the_session_goes_on(models, options, words):
    with Session(models, timeline=Timeline.of(FOX, length=12)) as session, session.frames() as frames:
        next(frames)
        before = session.timeline
        with pytest.raises(ValueError, match=words):
            session.switch(**{"prompt": SEA, **options})
        assert session.timeline == before
        next(frames)
        assert session.state in ("playing", "waiting")


def test_emoji_markup_and_right_to_left_text_play(models):
    line = Timeline.of("🦊👩‍👩‍👧‍👦", "ثعلب أحمر", "<script>alert(1)</script>", blocks=1, length=3)
    with Session(models, timeline=line) as session:
        assert len(list(session.frames())) == 3


# The timeline


def test_the_future_can_be_edited_and_the_past_cannot(session):
    take(session, 2)
    session.pause()
    wait_for(lambda: session.state == "paused")
    made = session.stats.generated_blocks
    session.timeline = session.timeline.append(SEA, made + 1)
    session.timeline = session.timeline.edit(1, prompt=SNOW)
    session.timeline = session.timeline.move(1, made)
    before = session.timeline
    for edit, words in [
        (lambda line: line.edit(0, prompt=SEA), f"block 0 was made under.*change block {made} or a later one"),
        (lambda line: line.edit(0, policy="keep"), "the past cannot be edited"),
        (lambda line: line.put(Segment(SEA, 1)), "was added at block 1"),
        (lambda line: line.move(1, 1), "was added at block 1"),
        (lambda line: line.remove(0), "the past cannot be edited"),
        (lambda line: line.remove(1).with_length(made - 1), f"`length` must be at least the {made} blocks begun"),
        (lambda line: line.with_seed(3), r"use restart\(seed\)"),
        (lambda line: Timeline.of(FOX).to_json(), "must be a studio.Timeline"),
        (lambda line: Timeline((Segment(FOX),), fps=24), "counts 24 frames/s"),
        (lambda line: Timeline((Segment(FOX),), block_latent_frames=2), "2 latent frames a block"),
    ]:
        with pytest.raises(ValueError, match=words):
            session.timeline = edit(session.timeline)
    assert session.timeline == before
    session.timeline = before.edit(0, colour="#123456", note="the opening")
    take(session, 2)
    assert session.log[made].prompt == SNOW
    with pytest.raises(ValueError, match="was removed at block"):
        session.timeline = session.timeline.remove(1)


def test_before_the_first_block_everything_can_be_edited(session):
    session.timeline = Timeline.of(SEA, seed=4, length=2)
    list(session.frames())
    assert session.seed == 4
    assert session.log[0].prompt == SEA


def test_a_finished_video_can_be_lengthened(models):
    with Session(models, timeline=Timeline.of(FOX, length=2)) as session:
        list(session.frames())
        with pytest.raises(ValueError, match="lengthen it"):
            session.switch(SEA)
        session.timeline = session.timeline.with_length(4)
        assert len(list(session.frames())) == 2
        assert equal(session.latents, latents_of(models, Timeline.of(FOX, length=4)))


def test_a_model_that_keeps_every_frame_needs_an_end():
    models = tiny_models(sink=0, window=None)
    assert len(latents_of(models, Timeline.of(FOX, length=4))) == 4
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.step()
        wait_for(lambda: session.state == "error")
        assert "give the timeline a length" in session.error.message
        session.timeline = session.timeline.with_length(2)
        assert len(list(session.frames())) == 2


# Restarting


def test_restart_gives_the_same_video_and_another_seed_another(session):
    take(session, 3)
    first, number = session.latents[:3], session.take
    session.restart()
    assert session.take == number + 1
    take(session, 3)
    assert equal(session.latents[:3], first)
    session.restart(seed=5)
    assert session.seed == session.timeline.seed == 5
    take(session, 3)
    assert not torch.equal(session.latents[0], first[0])
    assert {record.seed for record in session.log} == {5}
    for bad in (-1, 1.5, "7", 2**60):
        with pytest.raises(ValueError, match="`seed`"):
            session.restart(bad)  # type: ignore[arg-type]


def test_a_loop_goes_on_with_the_new_take(session):
    frames = session.frames()
    next(frames)
    next(frames)
    session.restart(seed=2)
    block = frames.next_block()
    assert (block.index, block.take) == (0, 1)


def test_restart_in_the_middle_of_a_block_drops_it(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        consumer, blocker = session.attach(), Blocker(models, call=4)
        session.play()
        assert blocker.reached.wait(60)
        session.restart(seed=9)
        blocker.remove()
        wait_for(lambda: session.stats.generated_blocks == 2)
        assert {record.take for record in session.log} == {1}
        made = session.latents
        consumer.close()
    assert equal(made[:2], latents_of(models, Timeline.of(FOX, seed=9, length=2)))


# Errors


def test_after_an_error_play_goes_on_from_the_last_good_block(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        events = []
        session.subscribe(events.append)
        frames = session.frames()
        next(frames)
        switch = session.switch("boom")
        with pytest.raises(RuntimeError, match="choked on boom"):
            for _ in frames:
                pass
        assert session.state == "error"
        assert "choked on boom" in session.error.message
        assert "Traceback" in session.error.traceback
        wait_for(lambda: [event.payload for event in events if event.kind == "error"] == [session.error])
        made = session.stats.generated_blocks
        assert made == switch.effective_block
        before = session.latents
        session.switch(SEA)
        assert session.timeline.segment_at(made).prompt == SEA
        session.play()
        next(frames)
        wait_for(lambda: session.stats.generated_blocks > made)
        assert session.error is None
        assert equal(session.latents[:made], before)
        assert [record.block for record in session.log if record.resumed] == [made]
        with pytest.raises(ValueError, match=f"rebuilt at block {made}"):
            session.script  # noqa: B018
        frames.close()


@pytest.mark.parametrize("part", ["dit", "vae"])
@pytest.mark.parametrize("when", [0, 2])
def test_a_failing_network_is_survived(models, part, when):
    with Session(models, timeline=Timeline.of(FOX, length=4), lead=9) as session:
        consumer = session.attach()
        module = getattr(models, part)
        method, name = (module.decode, "decode") if part == "vae" else (module.forward, "forward")
        calls = itertools.count()
        limit = when if part == "vae" else when * 3 + 1

        def fail(*args, **kwargs):
            if next(calls) == limit:
                raise MemoryError("no memory left\nand more")
            return method(*args, **kwargs)

        setattr(module, name, fail)
        session.play()
        wait_for(lambda: session.state == "error")
        assert session.error.message == "MemoryError: no memory left"
        assert session.stats.generated_blocks == when
        session.step()
        wait_for(lambda: session.state == "paused")
        session.play()
        wait_for(lambda: session.state == "finished")
        assert [r.block for r in session.log if r.resumed] == ([when] if when else [])
        assert [len(session.block(i).frames) for i in range(4)] == [9, 12, 12, 12]
        if when == 0:
            delattr(module, name)
            assert equal(session.latents, latents_of(models, Timeline.of(FOX, length=4)))
        consumer.close()


def test_a_restart_clears_an_error(session):
    session.switch("boom")
    session.step()
    wait_for(lambda: session.state == "error")
    session.switch(FOX)
    session.restart()
    assert session.state == "paused"
    assert len(take(session, 2)) == 2


# Closing


def test_closing_leaves_nothing(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        take(session, 2)
        cache = weakref.ref(session._core.take.engine.cache)
        latents = weakref.ref(session.latents[0])
    assert session.state == "closed"
    assert not generators()
    gc.collect()
    assert cache() is None
    assert latents() is None
    assert session.block(0) is None
    session.close()
    for call in (session.play, session.pause, session.step, session.restart, session.frames, session.attach):
        with pytest.raises(RuntimeError, match="session is closed; open a new one"):
            call()
    with pytest.raises(RuntimeError, match="session is closed"):
        session.switch(SEA)
    with pytest.raises(RuntimeError, match="session is closed"):
        session.timeline = Timeline.of(SEA)
    session.stop()
    assert session.unknown_words("zebra") == []
    assert session.stats.generated_blocks == 2 or session.stats.generated_blocks > 2


def test_closing_ends_a_block_before_its_next_step(models):
    session = Session(models, timeline=Timeline.of(FOX))
    consumer, blocker = session.attach(), Blocker(models, call=4)
    session.play()
    assert blocker.reached.wait(60)
    threading.Timer(0.05, blocker.remove).start()
    session.close()
    assert session.stats.generated_blocks == 1
    assert not generators()
    consumer.played(100)


def test_closing_ends_a_loop_in_another_thread(session):
    frames, seen = session.frames(), []
    thread = threading.Thread(target=lambda: seen.extend(frames))
    thread.start()
    wait_for(lambda: len(seen) > 2)
    session.close()
    thread.join(60)
    assert not thread.is_alive()


def test_an_exception_in_the_block_closes_too(models):
    session = Session(models, timeline=Timeline.of(FOX))
    with pytest.raises(RuntimeError, match="mine"), session:
        fail(take(session, 1))
    assert session.state == "closed"


def test_a_session_that_nobody_holds_dies(models):
    session = Session(models, timeline=Timeline.of(FOX))
    session.attach()
    session.subscribe(lambda event: None)
    take(session, 1)
    alive = weakref.ref(session)
    assert generators()
    del session
    gc.collect()
    assert alive() is None
    wait_for(lambda: not generators())


def test_the_interpreter_exits_while_a_session_plays():
    code = """
import torch
torch.set_num_threads(1)
from studio.live import Session
from tests.live.doubles import tiny_models
session = Session(tiny_models(), lead=50)
seat = session.attach()
session.play()
import time
while not session.stats.generated_blocks:
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Events


def test_events_come_in_order(models):
    with Session(models, timeline=Timeline.of(FOX, length=3)) as session:
        events = []
        stop = session.subscribe(events.append)
        list(session.frames())
        wait_for(lambda: session.state == "finished" and events[-1].payload == "finished")
        assert [e.payload.index for e in events if e.kind == "block"] == [0, 1, 2]
        states = [e.payload for e in events if e.kind == "state"]
        assert states[0] == "warming"
        assert states[-1] == "finished"
        assert set(states) <= set(STATES)
        assert all(a != b for a, b in itertools.pairwise(states))
        stop()
        stop()
        count = len(events)
        session.restart()
        assert len(events) == count


def test_edits_are_announced(session):
    events = []
    session.subscribe(lambda event: events.append((event.kind, event.payload)))
    switch = session.switch(SEA, at=3)
    assert events == [("timeline", session.timeline), ("switch", switch)]
    session.timeline = session.timeline.remove(1)
    session.restart(seed=3)
    assert [kind for kind, _ in events[2:]] == ["timeline", "timeline", "restart", "takes"]
    session.timeline = session.timeline.with_length(None)
    assert len(events) == 6


def test_a_listener_may_steer_and_may_fail(session, caplog):
    def steer(event):
        if event.kind == "block" and event.payload.index == 1:
            session.switch(SEA)

    def fail(event):
        raise KeyError("listener")

    session.subscribe(fail)
    session.subscribe(steer)
    take(session, 5)
    assert SEA in [record.prompt for record in session.log]
    assert sum("a listener failed" in record.message for record in caplog.records) == 1
    with pytest.raises(ValueError, match="must be callable"):
        session.subscribe(None)  # type: ignore[arg-type]


def test_a_listener_may_close_the_session(models):
    session, states = Session(models, timeline=Timeline.of(FOX)), []
    session.subscribe(lambda event: session.close() if event.kind == "block" else None)
    session.subscribe(lambda event: states.append(event.payload) if event.kind == "state" else None)
    session.step()
    wait_for(lambda: session.state == "closed" and not generators())
    wait_for(lambda: states[-1] == "closed")
    assert not session._core.outbox._listeners


def test_listening_does_not_keep_the_listener_alive(session):
    class Widget:
        def __init__(self):
            self.seen = []

        def listen(self, event):
            self.seen.append(event)

    widget = Widget()
    session.subscribe(widget.listen)
    session.step()
    seen, alive = widget.seen, weakref.ref(widget)
    wait_for(lambda: seen)
    del widget
    gc.collect()
    assert alive() is None
    session.step()
    wait_for(lambda: session.stats.generated_blocks == 2)


# Measuring, words, threads


def test_stats_leave_the_first_block_out(session):
    take(session, 1)
    session.pause()
    wait_for(lambda: session.state == "paused")
    session.restart()
    session.step()
    wait_for(lambda: session.stats.generated_blocks == 1)
    assert session.stats.generated_fps is None
    assert session.stats.first_frame_s > 0
    session.switch(SEA)
    session.step()
    session.step()
    wait_for(lambda: session.stats.generated_blocks == 3)
    stats = session.stats
    assert stats.generated_frames == 33
    assert stats.generated_fps > 0
    for value in (stats.denoise_ms, stats.commit_ms, stats.vae_ms, stats.recache_ms, stats.text_ms):
        assert value > 0


def test_waiting_is_not_generating(session):
    consumer, slept = session.attach(), 0.0
    started = time.monotonic()
    session.play()

    def rests(made):
        return session.stats.generated_blocks == made and session.state == "waiting"

    for block in range(4):
        wait_for(lambda made=block + 2: rests(made))
        time.sleep(0.1)
        slept += 0.1
        consumer.played(session.timeline.start_frame(block + 1))
    wait_for(lambda: rests(6))
    generating = (session.stats.generated_frames - 9) / session.stats.generated_fps
    assert generating < time.monotonic() - started - slept


def test_unknown_words(session):
    assert session.unknown_words == ()
    words = session.unknown_words("a Red foks runs_in the zzzqqq, foks")
    assert [(word.word, word.start, word.end, word.nearest) for word in words][:1] == [("foks", 6, 10, "fox")]
    session.switch("a blu fox")
    assert [(word.word, word.nearest) for word in session.unknown_words] == [("blu", "blue")]
    assert session.unknown_words("") == []
    for typed, meant in (("jumpz", "jumps"), ("xfox", "fox"), ("snwo", "snow"), ("glacier", None), ("dogs", None)):
        assert [word.nearest for word in session.unknown_words(typed)] == [meant]
    with pytest.raises(ValueError):
        session.unknown_words(3)


def test_two_sessions_share_networks(models):
    line = Timeline((Segment(FOX), Segment(SEA, 2)), 4)
    alone = latents_of(models, line)
    results = {}

    def run(i):
        results[i] = latents_of(models, line)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert equal(results[0], alone)
    assert equal(results[1], alone)


def test_a_busy_cell_does_not_stop_the_frames(session):
    session.play()
    consumer = session.attach()
    consumer.played(10_000)
    wait_for(lambda: session.stats.generated_blocks > 1)
    before, end, total = session.stats.generated_blocks, time.monotonic() + 120, 0
    while time.monotonic() < end and session.stats.generated_blocks == before:
        for _ in range(10_000):
            total += sum(range(100))
    assert session.stats.generated_blocks > before


def test_the_process_is_left_as_it_was(models):
    before = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), sys.getswitchinterval())
    with Session(models, timeline=Timeline.of(FOX)) as session:
        take(session, 2)
        assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[:2]
    after = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), sys.getswitchinterval())
    assert after == before


# Opening


def test_opening(models):
    with open_session(models, prompt=SEA, seed=3, lead=2, policy="keep") as session:
        assert session.timeline.segments[0].prompt == SEA
        assert (session.seed, session.lead, session.policy) == (3, 2, "keep")
        session.policy = "clear"
        assert session.policy == "clear"
        with pytest.raises(ValueError, match="`policy`"):
            session.policy = "no"
    with open_session(models, timeline=Timeline.of(FOX, seed=8)) as session:
        assert session.seed == 8
    with open_session(models, timeline=Timeline.of(FOX, seed=8), seed=9) as session:
        assert session.seed == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "must not be empty"),
        ({"prompt": SEA, "timeline": Timeline.of(SEA)}, "exclude each other"),
        ({"timeline": SEA}, "must be a studio.Timeline"),
        ({"timeline": Timeline((Segment(SEA),), fps=8)}, "counts 8 frames/s"),
        ({"seed": -1}, "`seed`"),
        ({"seed": "x"}, "`seed`"),
        ({"policy": "x"}, "`policy`"),
        ({"policy": None}, "`policy`"),
        ({"lead": 0}, "`lead`"),
        ({"device": "gpu"}, "`device` must be as"),
        ({"device": "cuda:99"}, "`device` must be here"),
        ({"device": 1.5}, "`device`"),
        ({"lead": 1.5}, "`lead`"),
    ],
)
def test_bad_openings(models, options, words):
    with pytest.raises(ValueError, match=words):
        open_session(models, **options)
    assert not generators()


def test_a_model_that_makes_whole_clips_is_refused(models):
    models.config = dataclasses.replace(models.config, causal=False)
    with pytest.raises(ValueError, match=r"`tiny` makes a clip at a time.*use a causal one"):
        open_session(models)


def test_a_model_that_is_not_there_is_named():
    with pytest.raises((ValueError, FileNotFoundError), match="minature"):
        open_session("minature")
