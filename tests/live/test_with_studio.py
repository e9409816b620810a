"""A live session under the widget, with a page that only a browser is missing from."""

from __future__ import annotations

import pytest
import torch

from studio.live import Session
from studio.timeline import Timeline
from studio.widgets import Studio
from tests.live.doubles import generators, tiny_models, wait_for
from tests.widgets.recorder import Browser

FOX, SEA = "a red fox runs", "the blue sea"


@pytest.fixture
def page():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with Session(tiny_models(), timeline=Timeline.of(FOX)) as session:
        widget = Studio(session)
        page = Browser(widget)
        yield page
        widget.close()
        assert session._core.gate.seats() == []
    assert not generators()
    torch.set_num_threads(before)


def shown(page: Browser, block: int) -> None:
    page.wait(lambda: block in page.blocks, timeout_s=20)


def test_a_page_plays_and_steers_a_session(page):
    session = page.widget.source
    page.ready()
    shown(page, 1)
    page.quiet(0.1)
    assert max(page.blocks) == 1  # the page has not shown a frame yet, so one block ahead is enough
    page.say("played", frame=9, take=0, hidden=False)
    shown(page, 2)
    reply = page.ask("switch", prompt=SEA, policy=None, at=None)
    assert reply["error"] is None
    block = reply["effective_block"]
    assert session.timeline.segment_at(block).prompt == SEA
    page.say("played", frame=session.timeline.start_frame(block), take=0, hidden=False)
    shown(page, block)
    assert session.log[block].prompt == SEA
    assert session.log[block].requested_frame == 9
    switches = page.wait(lambda: [m["switch"] for m in page.of("switch") if m["switch"]["latency_s"] is not None])
    assert switches[-1]["effective_block"] == block
    assert page.widget.errors == []


def test_a_bad_wish_is_answered_and_the_video_goes_on(page):
    page.ready()
    shown(page, 1)
    assert "must not be empty" in page.ask("switch", prompt=" ", policy=None, at=None)["error"]
    assert "has not begun" in page.ask("switch", prompt=SEA, policy=None, at=0)["error"]
    put = {"op": "put", "segment": {"prompt": SEA, "start_block": 0}}
    assert page.ask("edit", do="apply", operation=put)["past"]["block"] == 0
    page.say("played", frame=9, take=0, hidden=False)
    shown(page, 2)


def test_an_error_is_told_and_play_goes_on(page):
    page.ready()
    shown(page, 1)
    block = page.ask("switch", prompt="boom", policy=None, at=None)["effective_block"]
    page.say("played", frame=page.widget.source.timeline.start_frame(block), take=0, hidden=False)
    error = page.wait(lambda: page.of("error"), timeout_s=20)[0]
    assert "choked on boom" in error["message"]
    page.ask("switch", prompt=SEA, policy=None, at=None)
    page.ask("play")
    shown(page, block)


def test_a_restart_begins_a_new_take(page):
    page.ready()
    shown(page, 1)
    page.ask("restart", seed=5)
    wait_for(lambda: [m for m in page.of("block") if m["take"] == 1 and m["index"] == 1])
    assert page.widget.source.seed == 5


def test_a_page_that_leaves_holds_nothing_up(page):
    page.ready()
    shown(page, 1)
    page.say("bye")
    wait_for(lambda: page.widget.source.state == "waiting")
    assert page.widget.source._core.gate.seats() == []
