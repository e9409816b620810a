"""A live session under the widget, with a page that only a browser is missing from."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import simplejpeg
import torch

from studio.live import Session
from studio.live.export import Film
from studio.timeline import Timeline
from studio.widgets import Studio, files
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
    page.wait(lambda: block in page.blocks)


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
    error = page.wait(lambda: page.of("error"))[0]
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


def picture(shade: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((32, 48, 3), shade, np.uint8), colorspace="RGB")


def test_a_file_is_sent_in_parts_and_started_from(page):
    page.ready()
    shown(page, 1)
    hello = page.of("hello")[0]
    assert (hello["startable"], hello["exportable"], hello["export"]) == (True, True, None)
    file = picture(200)
    cut = len(file) // 2
    assert page.ask("upload", name="a.jpg", part=0, parts=2, prompt=SEA, data=file[:cut])["error"] is None
    assert page.ask("upload", name="a.jpg", part=1, parts=2, prompt=SEA, data=file[cut:])["error"] is None
    session = page.widget.source
    assert (session.take, session.timeline.segments[0].prompt) == (1, SEA)
    assert session.log[0].given is not None
    restart = page.wait(lambda: page.of("restart"))[0]
    assert (restart["take"], restart["start"], restart["made"]) == (1, 0, 9)
    page.say("want", take=1, block=0, count=1)
    page.wait(lambda: [m for m in page.of("block") if (m["take"], m["index"]) == (1, 0)])
    page.say("played", frame=8, take=1, hidden=False)
    wait_for(lambda: len(session.log) > 1)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([(0, 1, b"no picture")], "no image or clip that can be read"),
        ([(1, 2, b"x")], "part 1 came before part 0"),
        ([(0, 3, b"x"), (2, 3, b"x")], "part 2 came before part 1"),
        ([(2, 2, b"x")], "`part` must be one of `parts`"),
        ([(0, 5000, b"x")], "`part` must be one of `parts`"),
        ([(0, 0, b"x")], "`part` must be one of `parts`"),
    ],
)
def test_files_that_make_no_sense(page, parts, words):
    page.ready()
    shown(page, 1)
    for part, of, data in parts:
        reply = page.ask("upload", name="a", part=part, parts=of, prompt=None, data=data)
    assert words in reply["error"]
    assert page.widget.source.take == 0
    assert page.widget.errors == []


def test_a_file_that_is_too_large_is_refused_while_it_comes(page, monkeypatch):
    monkeypatch.setattr(files, "MAX_UPLOAD", 1 << 20)
    page.ready()
    assert page.ask("upload", name="a", part=0, parts=3, prompt=None, data=bytes(1 << 20))["error"] is None
    reply = page.ask("upload", name="a", part=1, parts=3, prompt=None, data=b"x")
    assert "at most 1 MiB" in reply["error"]
    assert "came before part 0" in page.ask("upload", name="a", part=2, parts=3, prompt=None, data=b"x")["error"]


def test_an_export_from_the_browser(page, tmp_path):
    page.ready()
    shown(page, 1)
    asked = {"path": str(tmp_path / "fox.mp4"), "format": None, "start": 0, "stop": 15, "force": False}
    assert page.ask("save", **asked)["error"] is None
    told = page.wait(lambda: [m["export"] for m in page.of("export") if m["export"]["state"] == "done"])
    assert told[-1] == {"path": asked["path"], "state": "done", "done": 15, "total": 15, "error": None}
    assert "exists" in page.ask("save", **asked)["error"]
    assert "there is no folder" in page.ask("save", **{**asked, "path": str(tmp_path / "no" / "a.mp4")})["error"]
    assert "needs a name" in page.ask("save", **{**asked, "path": " "})["error"]
    assert "must be one of mp4" in page.ask("save", **{**asked, "path": "a.avi"})["error"]
    assert page.ask("unsave")["error"] is None
    assert [item.name for item in tmp_path.iterdir()] == ["fox.mp4"]
    assert page.widget.errors == []


def test_one_export_at_a_time_and_cancelling(page, tmp_path, monkeypatch):
    go = threading.Event()
    add = Film._add

    def slow(self, frame):
        assert go.wait(60)
        add(self, frame)

    monkeypatch.setattr(Film, "_add", slow)
    page.ready()
    shown(page, 1)
    asked = {"path": str(tmp_path / "a.mp4"), "format": None, "start": 0, "stop": None, "force": False}
    assert page.ask("save", **asked)["error"] is None
    assert "under way" in page.ask("save", **{**asked, "path": str(tmp_path / "b.mp4")})["error"]
    assert page.ask("unsave")["error"] is None
    go.set()
    page.wait(lambda: [m for m in page.of("export") if m["export"]["state"] == "cancelled"])
    assert list(tmp_path.iterdir()) == []
