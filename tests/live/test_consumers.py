"""Who bounds generation: the slowest player, and where nobody plays the loop that is furthest on."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from studio.live import Session
from studio.timeline import Timeline
from tests.live.doubles import Blocker, tiny_models, wait_for

FOX = "a red fox runs"


@pytest.fixture
def models():
    return tiny_models()


def rests_at(session: Session, blocks: int) -> None:
    wait_for(lambda: session.stats.generated_blocks == blocks and session.state == "waiting")
    time.sleep(0.05)
    assert session.stats.generated_blocks == blocks


def test_a_loop_that_was_left_standing_holds_up_no_other(models):
    with Session(models, timeline=Timeline.of(FOX, length=40)) as session:
        kept = session.frames()
        first = next(kept)
        rest: list[np.ndarray] = []
        loop = threading.Thread(target=lambda: rest.extend(session.frames()), daemon=True)
        loop.start()
        loop.join(60)
        assert not loop.is_alive()
        assert len(rest) == 39
        # It lost nothing: what is no longer at hand is kept compressed.
        late = list(kept)
        assert [len(block) for block in (first, *late)] == [9, *[12] * 39]
        assert all(np.array_equal(one, other) for one, other in zip(late[-4:], rest[-4:], strict=True))


@pytest.mark.parametrize("lead", [1, 3])
def test_loops_alone_are_bounded_by_the_one_furthest_on(models, lead):
    with Session(models, timeline=Timeline.of(FOX), lead=lead) as session:
        slow = session.frames()
        rests_at(session, 1 + lead)
        fast = session.frames(0)
        # Blocks that are there cost nothing; the first one that is waited for lets it go on.
        assert len(list(itertools.islice(fast, 2 + lead))) == 2 + lead
        rests_at(session, 2 + 2 * lead)
        next(slow)
        rests_at(session, 2 + 2 * lead)
        fast.close()
        slow.close()


def test_the_slowest_player_bounds_it_whatever_loops_there_are(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        player = session.attach()
        loop = session.frames(5)
        rests_at(session, 2)
        player.played(50)
        rests_at(session, 6)
        behind = session.frames(0)
        player.played(session.timeline.start_frame(8))
        rests_at(session, 10)
        assert session.stats.lead_s == (session.timeline.start_frame(10) - session.timeline.start_frame(8)) / 16
        player.close()
        assert behind.next_block().index == 0
        assert loop.next_block().index == 5
        rests_at(session, 10)
        behind.close()
        loop.close()


def test_what_takes_frames_shows_itself_in_a_line(models):
    with Session(models, timeline=Timeline.of(FOX, length=3)) as session:
        frames = session.frames()
        assert repr(frames) == "<Frames: 0 blocks taken, block 0 is next>"
        next(frames)
        assert repr(frames) == "<Frames: 1 block taken, block 1 is next>"
        session.pause()  # so that nothing is made of the next take before the loop asks for it
        session.restart()
        assert repr(frames) == "<Frames: 1 block taken, block 0 is next>"
        session.stop()
        assert repr(frames) == "<Frames: 1 block taken, over>"
        blocker = Blocker(models, call=1)
        loop = session.frames()
        thread = threading.Thread(target=lambda: list(loop))
        thread.start()
        wait_for(lambda: repr(loop) == "<Frames: 0 blocks taken, waiting for block 0>")
        blocker.remove()
        thread.join(60)
        assert repr(loop) == "<Frames: 3 blocks taken, over>"
        loop.close()
        player = session.attach()
        player.played(7, dropped=2)
        assert repr(player) == "<Attachment: frame 7 of take number 1, 2 dropped>"
        player.close()
        assert repr(player) == "<Attachment: frame 7 of take number 1, 2 dropped, closed>"
        frames.close()
