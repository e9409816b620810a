"""What a session tells of itself: rates by its own clock, what is under way, what was dropped, what the device does."""

from __future__ import annotations

import re
import time

import pytest
import torch

from studio.live import Session
from studio.live.consumers import Attachment
from studio.live.device import DeviceMeter, resident_bytes
from studio.timeline import Timeline
from tests.live.doubles import Blocker, tiny_models, wait_for

FOX = "a red fox runs"


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("studio.live.consumers.time.perf_counter", lambda: now[0])
    return now


def seat() -> Attachment:
    return Attachment(0, 0, lambda: None)


def play(handle: Attachment, clock: list[float], seconds: float, fps: float, start: int = 0) -> int:
    """Report twice a second."""
    for step in range(round(seconds * 2) + 1):
        frame = start + round(step * fps / 2)
        handle.played(frame)
        clock[0] += 0.5
    clock[0] -= 0.5
    return frame


@pytest.mark.parametrize("fps", [4, 16, 60])
def test_the_rate_is_that_of_the_reports(clock, fps):
    handle = seat()
    assert handle.rate(clock[0]) is None
    play(handle, clock, 6, fps)
    assert handle.rate(clock[0]) == pytest.approx(fps, rel=0.1)
    assert handle.rate(clock[0] + 2) is None  # it stands still


def test_going_elsewhere_is_no_playing(clock):
    handle = seat()
    at = play(handle, clock, 3, 16)
    handle.played(5)
    assert handle.rate(clock[0]) is None
    clock[0] += 0.5
    handle.played(at + 4000)
    assert handle.rate(clock[0]) is None
    clock[0] += 0.5
    play(handle, clock, 3, 16, at + 4008)
    assert handle.rate(clock[0]) == pytest.approx(16, rel=0.15)
    handle.rewind(1, 0)
    assert handle.rate(clock[0]) is None


def test_what_is_dropped_is_counted_by_the_take():
    with Session(tiny_models(), timeline=Timeline.of(FOX)) as session:
        one, other = session.attach(), session.attach()
        one.played(3, dropped=2)
        other.played(3, dropped=5)
        assert session.stats.dropped_frames == 7
        one.played(4, take=9, dropped=50)
        assert session.stats.dropped_frames == 7
        for bad in (-1, 1.5, True):
            with pytest.raises(ValueError, match="dropped"):
                one.played(4, dropped=bad)  # type: ignore[arg-type]
        session.restart()
        assert session.stats.dropped_frames == 0
        one.close()
        other.close()


def test_a_block_under_way_is_expected_and_a_resting_session_expects_none():
    models = tiny_models()
    with Session(models, timeline=Timeline.of(FOX)) as session:
        assert session.stats.next_frame_s is None
        for block in range(4):
            session.step()
            wait_for(lambda made=block + 1: session.stats.generated_blocks == made and session.state == "paused")
        assert session.stats.next_frame_s is None
        a_block = 12 / session.stats.generated_fps
        blocker = Blocker(models, call=1)
        session.step()
        assert blocker.reached.wait(60)
        # Held up inside the block: it is expected within what a block takes, and never before now.
        expected = [session.stats.next_frame_s for _ in range(50)]
        blocker.remove()
        assert all(seconds is not None and 0 <= seconds <= 1.5 * a_block for seconds in expected)
        wait_for(lambda: session.state == "paused")
        assert session.stats.next_frame_s is None


def test_the_device_tells_what_it_does():
    meter = DeviceMeter(torch.device("cpu"))
    assert meter.describe() == ""
    meter._at -= 1
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    told = meter.describe()
    assert re.fullmatch(r"\d+\.\d of \d+ cores, \d+\.\d GB", told)
    assert meter.describe() == told  # not measured anew at once
    assert resident_bytes() > 10**7
