"""What a page may do to a timeline: clips, files, takes, quick prompts and small pictures."""

from __future__ import annotations

import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from studio.timeline import Clip, Segment, Timeline, Weighted
from studio.widgets import Studio
from studio.widgets.desk import check_quick, recounted
from studio.widgets.palette import Palette
from studio.widgets.thumbs import HEIGHT, small
from tests.widgets.double import Double
from tests.widgets.recorder import Browser


@pytest.fixture
def source():
    double = Double(threaded=False, block_s=0, size=(160, 240))
    yield double
    double.close()


@pytest.fixture
def page(source):
    widget = Studio(source)
    browser = Browser(widget)
    browser.ready()
    yield browser
    widget.close()


class Recording:
    """A source without an editor: everything of a double but that."""

    def __init__(self, double: Double):
        self._double = double

    def __getattr__(self, name: str):
        if name in ("editor", "takes"):
            raise AttributeError(name)
        return getattr(self._double, name)


def test_a_source_without_an_editor_is_shown_but_not_edited(source: Double) -> None:
    widget = Studio(Recording(source))  # type: ignore[arg-type]
    page = Browser(widget)
    page.ready()
    hello = page.wait(lambda: page.of("hello"))[0]
    assert (hello["editable"], hello["takes"], hello["timeline"]["history"]) == (False, [], None)
    assert "cannot be edited; open a live session" in page.ask("edit", do="undo")["error"]
    with pytest.raises(ValueError, match="cannot be edited"):
        widget.undo()
    widget.close()


def test_clips_and_plain_text_are_pasted(source: Double, page: Browser) -> None:
    clip = Clip((Segment("a fox jumps", blend=(Weighted("at night", 3.0),)),), 2).to_json()
    assert page.ask("paste", text=clip, at=4, over=False)["error"] is None
    assert page.ask("paste", text="first\nsecond\n", at=0, over=False)["error"] is None
    prompts = [segment.prompt for segment in source.timeline.segments]
    assert prompts[:2] == ["first", "second"]
    assert prompts[3] == "a fox jumps"
    assert source.timeline.segments[3].blend == (Weighted("at night", 3.0),)


@pytest.mark.parametrize("text", ["{not a clip", '{"format": "other"}', "", "\x00"])
def test_what_is_no_clip_is_refused_by_a_sentence(source: Double, page: Browser, text: str) -> None:
    before = source.timeline
    assert page.ask("paste", text=text, at=0, over=False)["error"]
    assert source.timeline == before


def test_files_go_in_and_out_with_a_report_of_what_is_lost(source: Double, page: Browser) -> None:
    line = Timeline((Segment("a", note="warm"), Segment("b", 5)), 9, seed=7)
    assert page.ask("import", name="story.json", text="\ufeff" + line.to_json())["notes"] == []
    assert source.timeline == line
    written = page.ask("export", format="json")
    assert (Timeline.from_json(written["text"]), written["lost"], written["name"]) == (line, [], "timeline.json")
    lost = page.ask("export", format="txt")["lost"]
    assert any("note" in item for item in lost)
    scope = page.ask("export", format="scope")
    assert scope["name"] == "timeline.scope.json"
    assert page.ask("import", name=scope["name"], text=scope["text"])["error"] is None
    assert [s.prompt for s in source.timeline.segments] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [("story.mp4", "", "a timeline is a .json"), ("story.json", "{", "JSON"), ("story.txt", "\n\n", "prompt")],
)
def test_files_that_are_no_timeline(source: Double, page: Browser, name: str, text: str, why: str) -> None:
    before = source.timeline
    assert why in page.ask("import", name=name, text=text)["error"]
    assert source.timeline == before


def test_an_unknown_format_is_refused(page: Browser) -> None:
    assert "`format` must be one of json" in page.ask("export", format="yaml")["error"]


def test_a_file_with_other_units_keeps_its_blocks_and_says_so() -> None:
    own = Timeline((Segment("a"),), fps=16)
    line = Timeline((Segment("b"), Segment("c", 4)), fps=8)
    now, notes = recounted(line, own)
    assert (now.fps, now.segments) == (16, line.segments)
    assert notes == ["the file counts blocks of 1.5 s, here they last 0.75 s; the block numbers are kept"]
    assert recounted(own, own) == (own, [])


def test_takes_are_named_and_shown(source: Double, page: Browser) -> None:
    hello = page.wait(lambda: page.of("hello"))[0]
    assert [take["name"] for take in hello["takes"]] == ["take 1"]
    assert page.ask("take", do="rename", take=0, name="night")["error"] is None
    assert page.wait(lambda: page.of("takes"))[-1]["takes"][0]["name"] == "night"
    assert "there is no take 9" in page.ask("take", do="choose", take=9)["error"]
    assert "`do` must be one of choose" in page.ask("take", do="burn", take=0)["error"]
    assert "`at` must be" in page.ask("take", do="fork", take=0, at=None)["error"]


def test_quick_prompts_are_set_from_both_sides(source: Double, page: Browser) -> None:
    page.widget.quick_prompts = {"runs": "a fox runs"}
    assert page.wait(lambda: page.of("quick"))[-1]["prompts"] == [{"name": "runs", "prompt": "a fox runs"}]
    assert page.ask("quick", prompts=[{"name": " sea ", "prompt": "a fox by the sea"}])["error"] is None
    assert page.widget.quick_prompts == {"sea": "a fox by the sea"}
    assert "must not be empty" in page.ask("quick", prompts=[{"name": "sea", "prompt": " "}])["error"]
    assert page.widget.quick_prompts == {"sea": "a fox by the sea"}


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        ({str(i): "a" for i in range(10)}, "at most 9, one a key, got 10"),
        ({"": "a"}, "1 to 40 characters"),
        ({"x" * 41: "a"}, "1 to 40 characters"),
        ([("a", "b"), ("a", "c")], "two quick prompts are named 'a'"),
        ([("a",)], "a name and a prompt"),
        ([{"name": "a", "prompt": "b", "key": 1}], "unknown key"),
        ({"a": 5}, "`prompt` must be a string"),
        ("runs", "`quick_prompts` must be a list"),
    ],
)
def test_quick_prompts_that_make_no_sense(candidate: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_quick(candidate)


def test_small_pictures_come_when_asked_for(source: Double, page: Browser) -> None:
    blocks = [source.make() for _ in range(3)]
    page.say("thumbs", take=0, blocks=[0, 2, 9])
    message = page.wait(lambda: page.of("thumbs"))[0]
    assert (message["take"], message["blocks"]) == (0, [0, 2])
    (buffer,) = next(b for m, b in zip(page.messages, page.buffers, strict=True) if m is message and b)
    first = np.asarray(Image.open(io.BytesIO(buffer[: message["sizes"][0]])))
    assert first.shape == (80, 120, 3)
    assert np.abs(first.astype(int) - small(blocks[0].frames[0])).mean() < 6
    page.say("thumbs", take=5, blocks=[0])  # another take: nothing comes
    page.quiet(0.2)
    assert len(page.of("thumbs")) == 1
    page.widget.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "studio-widget-thumbs"]


def test_frames_shrink_by_means() -> None:
    frame = np.arange(4 * HEIGHT * 8 * 3, dtype=np.uint32).reshape(4 * HEIGHT, 8, 3) % 251
    got = small(frame.astype(np.uint8))
    assert got.shape == (HEIGHT, 2, 3)
    assert got[0, 0, 0] == round(frame[:4, :4, 0].mean())
    assert small(got) is got
    assert small(np.zeros((480, 832, 3), np.uint8)).shape == (68, 118, 3)


def test_prompts_that_are_mixed_in_have_colours_of_their_own() -> None:
    palette = Palette()
    line = Timeline((Segment("a", blend=(Weighted("b"), Weighted("c"))), Segment("c", 4)))
    assert palette.colours(line) == [0, 1]
    assert palette.shades(line) == {"b": 2, "c": 1}
    assert palette.colours(line) == [0, 1]


def test_a_timeline_message_is_json_and_leaves_defaults_out(source: Double, page: Browser) -> None:
    message = page.wait(lambda: page.of("hello"))[0]["timeline"]
    assert set(message["segments"][0]) == {"prompt", "start", "colour"}
    json.dumps(message)
