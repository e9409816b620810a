"""Readings of the cache for looking back: behind the pictures, confirmed, and none that the page has already."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import studio
from studio.events import DecodedBlock, TakeInfo
from studio.live import Session
from studio.timeline import Segment, Timeline
from studio.timeline.operations import Split
from studio.widgets import CacheStrip, Studio, figures, relay
from studio.widgets.outbox import Outbox
from studio.widgets.relay import shared_blocks
from tests.live.doubles import wait_for, worded_models
from tests.widgets.recorder import Browser

FOX, SEA = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture(scope="module")
def models() -> Any:
    return worded_models()


def run(session: Session, blocks: int) -> None:
    """Make blocks until there are so many."""
    while (before := session.stats.generated_blocks) < blocks:
        session.step()
        wait_for(lambda before=before: session.stats.generated_blocks > before and session.state == "paused")


def sending(player: Studio) -> relay.Relay:
    assert player._relay is not None
    return player._relay


def read(page: Browser) -> list[tuple[int, int]]:
    return [(message["take"], message["block"]) for message in page.of("cache")]


def test_what_is_sent_later_waits_for_the_pages_and_for_the_pictures() -> None:
    sent: list[tuple[str, int | None]] = []
    outbox = Outbox(lambda message, _: sent.append((message["type"], message.get("serial"))), lambda *_: [b"x"])

    def reading(take: int, block: int) -> Any:
        return lambda: ({"type": "cache", "take": take, "block": block}, None)

    outbox.join("page")
    for block in range(5):
        outbox.post_later(0, block, reading(0, block))
    wait_for(lambda: len(sent) == 2)
    outbox.post({"type": "pong"})
    wait_for(lambda: len(sent) == 3)
    assert sent == [("cache", 1), ("cache", 2), ("pong", None)]
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    outbox.post_block(DecodedBlock(index=0, first_frame=0, frames=frames, prompt=FOX, segment=0))
    outbox.ack("page", 2)
    wait_for(lambda: len(sent) == 4)
    outbox.post({"type": "pong"})
    wait_for(lambda: len(sent) == 5)
    assert sent[3:] == [("block", 3), ("pong", None)]
    # One that was read anew takes the place of what waits; the other is not of the new take.
    outbox.post_later(1, 4, reading(1, 4))
    outbox.post({"type": "cache", "take": 0, "block": 2})
    assert outbox.drop_blocks(1) >= {3, 4}
    outbox.ack("page", 3)
    wait_for(lambda: sent[-1] == ("cache", 4))
    outbox.close()
    assert len(outbox._later) == 0


def test_readings_of_other_takes_that_were_not_sent_are_forgotten() -> None:
    outbox, held = Outbox(lambda *_: None, lambda *_: []), threading.Event()
    outbox._send = lambda *_: held.wait(20)  # type: ignore[assignment]
    outbox.join("page")
    for block in range(4):
        outbox.post({"type": "cache", "take": 0, "block": block})
    wait_for(lambda: len(outbox._messages) == 3)
    outbox.post({"type": "cache", "take": 1, "block": 7})
    assert outbox.drop_blocks(1) == {1, 2, 3}
    assert [message["block"] for message, _ in outbox._messages] == [7]
    held.set()
    outbox.close()


def test_a_page_that_opens_late_is_not_flooded_and_gets_all(models, monkeypatch) -> None:
    threads = []
    described = relay.cache_message
    monkeypatch.setattr(
        relay, "cache_message", lambda reading: threads.append(threading.current_thread().name) or described(reading)
    )
    with Session(models, timeline=Timeline.of(FOX)) as session:
        player = CacheStrip(session)
        run(session, 6)
        page = Browser(player, confirms=False)
        page.ready()
        page.wait(lambda: len(page.of("cache")) == 2)
        page.say("ping", id=3)
        page.wait(lambda: page.of("pong"))
        assert read(page) == [(0, 5), (0, 4)]
        # Of what was not sent the fork's share comes as the fork's, and nothing is encoded on the way of the event.
        session.fork(3, prompt=SEA)
        assert page.wait(lambda: page.of("restart"))[0]["shared"] == 3
        page.confirms = True
        page.say("ack", serial=2)
        page.wait(lambda: len(page.of("cache")) == 5)
        assert read(page)[2:] == [(1, 2), (1, 1), (1, 0)]
        assert set(threads) == {"studio-widget-sender"}
        # Back, with everything shared that the fork has: what it lacks is sent, once.
        session.takes.choose(0)
        page.wait(lambda: len(page.of("cache")) == 8)
        assert read(page)[5:] == [(0, 5), (0, 4), (0, 3)]
        player.close()


def test_a_late_reading_of_another_take_is_passed_over(models) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session:
        player = CacheStrip(session)
        page = Browser(player)
        page.ready()
        run(session, 2)
        old = session.readings[1]
        session.fork(1, prompt=SEA)
        page.wait(lambda: page.of("restart"))
        sending(player)._read(old)  # as one that was handed out just when the take changed
        page.say("ping", id=3)
        page.wait(lambda: page.of("pong"))
        assert read(page) == [(0, 0), (0, 1)]
        session.takes.choose(0)
        page.wait(lambda: len(page.of("cache")) == 3)
        assert read(page)[2:] == [(0, 1)]
        player.close()


def test_a_recording_has_one_take_whatever_the_session_called_it(models, tmp_path) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session, session.watch():
        session.restart()
        session.restart()
        run(session, 2)
        assert session.readings[0].take > 0
        recording = studio.open_recording(session.record(tmp_path / "take.studio"), models=models)
    player = Studio(recording)
    page = Browser(player)
    page.ready()
    page.wait(lambda: len(page.of("cache")) == 2)
    assert {take for take, _ in read(page)} == {page.of("hello")[0]["take"]}
    player.close()
    recording.close()


def info(number: int, parent: int | None, forked_at: int, blocks: int) -> TakeInfo:
    return TakeInfo(
        number=number, name="t", parent=parent, forked_at=forked_at, blocks=blocks, seed=0, current=False
    )  # fmt: skip


def test_shared_blocks_are_told_from_the_tree() -> None:
    takes = [info(0, None, 0, 9), info(1, 0, 5, 8), info(2, 1, 7, 10), info(3, 1, 2, 4), info(4, None, 0, 6)]
    pairs = {(0, 1): 5, (1, 2): 7, (0, 2): 5, (2, 3): 2, (3, 0): 2, (0, 4): 0, (1, 1): 8, (9, 0): 0, (9, 9): 0}
    for (one, other), blocks in pairs.items():
        assert shared_blocks(takes, one, other) == shared_blocks(takes, other, one) == blocks


def test_what_cannot_be_watched_is_played_all_the_same(models) -> None:
    with Session(models, timeline=Timeline.of(FOX, length=2)) as session, session.watch(samples=32):
        player = Studio(session)
        page = Browser(player)
        page.ready()
        hello = page.wait(lambda: page.of("hello"))[0]
        assert hello["watching"] is False
        assert "the cache cannot be watched: `samples` is 32 already" in hello["trouble"]
        page.wait(lambda: len(page.of("block")) > 0)
        assert "`samples` is 32 already" in page.ask("watch", on=True)["error"]
        again = Browser(player, "another")
        again.ready()
        assert again.wait(lambda: again.of("hello"))[-1]["watching"] is False
        assert player.errors == []
        player.close()


def test_a_cut_is_no_prompt_of_its_own(models) -> None:
    timeline = Timeline((Segment(FOX), Segment(SEA, 2, policy="keep", colour="#123456")))
    with Session(models, timeline=timeline) as session:
        session.editor.apply(Split(1))
        player = CacheStrip(session)
        page = Browser(player)
        page.ready()
        told = page.wait(lambda: page.of("hello"))[0]["timeline"]
        assert [segment["start"] for segment in told["segments"]] == [0, 1, 2]
        assert told["turns"] == [0, 2]
        run(session, 3)
        number = session.readings[-1].slots[-1].prompt
        assert number is not None
        assert session.readings[-1].prompts[number] == SEA
        assert figures._tint(sending(player).colours(), number) == "#123456"
        player.close()
