"""A watched session: readings block by block, true to the cache, and nothing left behind."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest
import torch

from studio.live import Session
from studio.live.blockreading import mass_of as _mass
from studio.live.watching import Observer
from studio.probes import CacheFault
from studio.timeline import Segment, Timeline
from tests.live.doubles import TEXT_LEN, wait_for, worded_models

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"


def open_session(policy="recache", blocks=8, at=5, models=None):
    timeline = Timeline((Segment(PROMPT), Segment(NEXT, at, policy=policy)), length=blocks)
    return Session(models or worded_models(), timeline=timeline)


def hooks(session):
    dit = session._core.models.dit
    return len(dit._forward_hooks) + len(dit._forward_pre_hooks)


def play(session):
    return list(session.frames())


def test_every_block_is_read() -> None:
    with open_session() as session, session.watch() as watching:
        play(session)
        readings = watching.readings
        assert [reading.block for reading in readings] == list(range(8))
        for reading in readings:
            occupied = [slot for slot in reading.slots if slot.frame is not None]
            assert {slot.frame for slot in occupied} >= set(reading.own)
            np.testing.assert_allclose(np.nansum(reading.mass, axis=-1), 1, atol=1e-5)
            assert all(reading.mass[..., i].max() == 0 for i, s in enumerate(reading.slots) if s.frame is None)
            assert reading.words is not None
            assert [word.text for word in reading.words.words] == (PROMPT if reading.block < 5 else NEXT).split()[
                : TEXT_LEN - 1
            ]
            assert reading.pictures.shape[0] == 3
            assert reading.seconds > 0
        assert watching.at(99) is None
        assert watching.latest is readings[-1]


@pytest.mark.parametrize(("policy", "colours"), [("recache", {1}), ("keep", {0}), ("clear", set())])
def test_the_switch_turns_the_slots(policy: str, colours: set[int]) -> None:
    with open_session(policy) as session, session.watch() as watching:
        play(session)
        reading = watching.at(5)
        assert reading is not None
        assert reading.before is not None
        assert {slot.prompt for slot in reading.before if slot.frame is not None} == {0}
        window = [slot for slot in reading.slots if slot.role == "window" and slot.frame not in reading.own]
        assert {slot.prompt for slot in window} == colours
        assert {slot.written for slot in window} == (
            {"recache"} if policy == "recache" else {"commit"} if policy == "keep" else set()
        )
        assert watching.at(4).before is None  # type: ignore[union-attr]
        assert reading.prompts[0] == PROMPT
        rows = watching.rows()
        assert {row["prompt"] for row in rows if row["block"] == 7} >= {NEXT}


def test_watching_changes_nothing_and_leaves_nothing() -> None:
    with open_session() as plain:
        play(plain)
        latents = plain.latents
    with open_session() as session:
        assert hooks(session) == 0
        watching = session.watch()
        play(session)
        assert hooks(session) == 2
        watching.close()
        watching.close()
        assert hooks(session) == 0
        assert session._core.observer is None
        assert all(torch.equal(a, b) for a, b in zip(latents, session.latents, strict=True))
        assert not watching.active


def test_two_hold_one() -> None:
    with open_session() as session:
        first, second = session.watch(), session.watch()
        first.close()
        assert second.active
        with pytest.raises(ValueError, match="`samples` is 16 already, got 4"):
            session.watch(samples=4)
        del second
        gc.collect()
        assert session._core.observer is None
        assert session.watch(samples=4).active


def test_a_new_take_is_watched_as_well() -> None:
    with open_session(blocks=3, at=2) as session, session.watch() as watching:
        play(session)
        first = watching.latest
        session.restart()
        play(session)
        readings = watching.readings
        assert [reading.block for reading in readings] == [0, 1, 2]
        assert {reading.take for reading in readings} == {1}
        assert first is not None
        np.testing.assert_array_equal(first.mass, readings[-1].mass)
        assert hooks(session) == 2


def test_watching_from_the_middle() -> None:
    with open_session() as session:
        frames = session.frames()
        for _ in range(3):
            next(frames)
        wait_for(lambda: session.state == "waiting")
        with session.watch() as watching:
            rest = list(frames)
            assert len(rest) == 5
            blocks = [reading.block for reading in watching.readings]
            assert blocks == list(range(8 - len(blocks), 8))
            assert blocks[0] <= 5


def test_readers_hear_each_block_before_it_is_announced() -> None:
    heard: list[tuple[str, int]] = []
    with open_session(blocks=3, at=2) as session, session.watch() as watching:
        end = watching.subscribe(lambda reading: heard.append(("reading", reading.block)))
        session.subscribe(lambda event: heard.append(("block", event.payload.index)) if event.kind == "block" else None)
        play(session)
        end()
        end()
    assert heard == [(kind, block) for block in range(3) for kind in ("reading", "block")]


def test_a_reader_that_fails_ends_the_watch_and_not_the_video() -> None:
    def fail(_reading: object) -> None:
        raise KeyError("reader")

    with open_session() as session, session.watch() as watching:
        watching.subscribe(fail)
        assert len(play(session)) == 8
        assert not watching.active
        assert session.error is None
        assert hooks(session) == 0


def test_memory_is_bounded() -> None:
    with open_session() as session, session.watch() as watching:
        observer = session._core.observer
        assert isinstance(observer, Observer)
        observer._budget = 5000
        play(session)
        kept = watching.readings
        assert 1 <= len(kept) < 8
        assert sum(reading.nbytes for reading in kept) <= 5000
        assert kept[-1].block == 7


def test_a_planted_fault_is_told_once() -> None:
    models = worded_models()
    with open_session(models=models) as session, session.watch() as watching:
        frames = session.frames()
        next(frames)

        def zero(_module: object, _args: object, kwargs: dict) -> None:
            cache = kwargs["context"].cache
            if cache.end >= 9:
                cache.keys[1][:, : cache.tokens] = 0

        handle = models.dit.register_forward_pre_hook(zero, with_kwargs=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            list(frames)
        handle.remove()
        faults = [warning for warning in told if issubclass(warning.category, CacheFault)]
        assert [fault.kind for fault in watching.warnings] == ["zero_slot"]
        assert len(faults) == 1
        assert [len(reading.warnings) for reading in watching.readings].count(1) == 1


def test_shares_by_layer_and_head() -> None:
    with open_session(blocks=3, at=2) as session, session.watch() as watching:
        play(session)
        reading = watching.latest
        assert reading is not None
        np.testing.assert_allclose(reading.shares(), reading.mass.mean(axis=(0, 1)))
        np.testing.assert_allclose(reading.shares(1, 0), reading.mass[1, 0])
        with pytest.raises(ValueError, match="`layer` must be one of"):
            reading.shares(7)
        with pytest.raises(ValueError, match="`head` must lie in"):
            reading.shares(0, 7)
        assert len(reading.head_rows()) == reading.mass.size
        assert _mass(reading.slots, None).size == 0


def test_a_point_is_read_from_the_next_block_on() -> None:
    with open_session() as session, session.watch() as watching:
        frames = session.frames()
        with pytest.raises(ValueError, match="before the first block"):
            watching.look(0, 0, 0)
        next(frames)
        rows, columns = watching.readings[0].grid
        with pytest.raises(ValueError, match="the point must lie within 3 frames"):
            watching.look(0, rows, 0)
        wait_for(lambda: session.state == "waiting")
        watching.look(1, rows - 1, 0)
        begun = len(watching.readings)
        rest = list(frames)
        assert rest
        assert all(reading.gaze is None for reading in watching.readings[:begun])
        for reading in watching.readings[begun:]:
            assert reading.point is not None
            assert (reading.point.frame, reading.point.row, reading.point.column) == (1, rows - 1, 0)
            assert reading.gaze is not None
            assert reading.gaze.shape == (len(reading.slots), rows, columns)
            assert np.nansum(reading.gaze) == pytest.approx(1, abs=1e-5)
            assert len(reading.gaze_rows()) == reading.gaze.size
        watching.look_away()
        frames.close()
        session.restart()
        play(session)
        assert all(reading.gaze is None for reading in watching.readings)


def test_every_token_asked_as_a_point_gives_the_mass() -> None:
    """The mean gaze of all tokens is the mass, where every token is sampled."""
    with open_session(blocks=5, at=4) as session, session.watch(samples=4096) as watching:
        play(session)
        rows, columns = watching.readings[0].grid
        gazes, mass = [], watching.readings[-1].mass.mean(axis=(0, 1))
        for frame, row, column in np.ndindex(3, rows, columns):
            watching.look(frame, row, column)
            session.restart()
            play(session)
            gaze = watching.readings[-1].gaze
            assert gaze is not None
            gazes.append(gaze.sum(axis=(1, 2)))
        np.testing.assert_allclose(np.mean(gazes, axis=0), mass, atol=1e-5)
