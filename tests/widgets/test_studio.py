"""The widget without a browser: what it sends, when it waits, and what it leaves behind."""

from __future__ import annotations

import gc
import io
import sys
import threading
import weakref

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from studio.comms import keep_subshell
from studio.events import DecodedBlock, ErrorReport, Event
from studio.widgets import FrameSource, Studio
from studio.widgets import studio as module
from tests.widgets.double import Double
from tests.widgets.recorder import Browser
from tests.widgets.takes import Forking


@pytest.fixture
def source():
    double = Double(threaded=False, block_s=0, size=(32, 48))
    yield double
    double.close()


@pytest.fixture
def widget(source):
    studio = Studio(source)
    yield studio
    studio.close()


def senders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "studio-widget-sender"]


def test_the_double_is_a_frame_source(source: Double) -> None:
    assert isinstance(source, FrameSource)


def test_only_frame_sources_are_shown() -> None:
    with pytest.raises(TypeError, match=r"`source` must be a frame source, got str without .*subscribe"):
        Studio("miniature")  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "css"), [(800, "800px"), ("50%", "50%"), ("700px", "700px")])
def test_width(source: Double, width: str | int, css: str) -> None:
    widget = Studio(source, width=width)
    assert widget.width == css
    widget.close()


@pytest.mark.parametrize("width", ["", "wide", "-3px", "0", 0, "1px;color:red", "calc(1px)"])
def test_widths_that_are_none(widget: Studio, width: str | int) -> None:
    with pytest.raises(ValueError, match="`width` must be a width"):
        widget.width = width


def test_nothing_runs_before_somebody_looks(source: Double, widget: Studio) -> None:
    assert senders() == []
    assert source.consumers == []
    assert source.state == "idle"


def test_a_page_gets_everything_and_starts_the_video(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    hello = page.wait(lambda: page.of("hello"))[0]
    assert hello["grid"] == {"first": 9, "rest": 12}
    assert hello["width"] == 48
    assert hello["fps"] == 16
    assert hello["timeline"]["segments"][0]["prompt"] == source.timeline.segments[0].prompt
    assert source.state == "warming"
    assert len(source.consumers) == 1
    block = source.make()
    page.wait(lambda: len(page.of("block")) == 2)  # the first block comes in halves
    first, second = page.of("block")
    assert first["first"] == 0
    assert second["first"] == len(first["sizes"])
    assert second["end"] == 9
    buffers = [b for b in page.buffers if b]
    assert [sum(m["sizes"]) for m in (first, second)] == [len(b[0]) for b in buffers]
    picture = simplejpeg.decode_jpeg(buffers[0][0][: first["sizes"][0]])
    assert picture.shape == (32, 48, 3)
    assert np.abs(picture.astype(int) - block.frames[0]).mean() < 4


def test_no_autoplay_when_told_so(source: Double) -> None:
    widget = Studio(source, autoplay=False)
    Browser(widget).ready()
    assert source.state == "idle"
    widget.close()


def test_at_most_two_blocks_are_unconfirmed(source: Double, widget: Studio) -> None:
    page = Browser(widget, confirms=False)
    page.ready()
    for _ in range(6):
        source.make()
    page.wait(lambda: len(page.of("block")) == 2)
    page.quiet()
    assert len(page.of("block")) == 2
    assert widget._relay.outbox.in_flight == 2
    page.say("ack", serial=1)
    page.wait(lambda: len(page.of("block")) == 3)
    page.say("ack", serial=10**6)  # more than was sent confirms what was sent
    page.wait(lambda: len(page.of("block")) == 5)
    page.quiet(0.2)
    assert len(page.of("block")) == 5


def test_blocks_arrive_in_order(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    for _ in range(8):
        source.make()
    page.wait(lambda: page.blocks[-1:] == [7])
    assert page.blocks == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert [m["serial"] for m in page.of("block")] == list(range(1, 10))


def test_the_generator_never_waits_for_the_browser(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    release, entered = threading.Event(), threading.Event()

    def stuck(content, buffers=None):
        entered.set()
        release.wait(60)

    page.ready()
    page.wait(lambda: page.of("hello"))
    widget.send = stuck
    try:
        maker = threading.Thread(target=lambda: [source.make() for _ in range(4)])
        maker.start()
        maker.join(60)
        assert entered.wait(60)
        assert not maker.is_alive()
    finally:
        release.set()


def test_a_silent_page_is_given_up_and_taken_back(source: Double, widget: Studio) -> None:
    widget._relay.outbox._timeout_s = 0.3
    page = Browser(widget, confirms=False)
    page.ready()
    for _ in range(5):
        source.make()
    page.wait(lambda: not source.consumers)  # nobody confirms: generation is not held up by it, and not driven
    sent = len(page.of("block"))
    assert sent == 2
    page.confirms = True
    page.say("ping", id=1)
    page.wait(lambda: len(page.of("hello")) == 2 and source.consumers)
    page.wait(lambda: page.blocks[sent:] == [1, 2, 3, 4])
    assert page.of("pong")[0]["id"] == 1


def test_a_page_that_vanished_does_not_hold_up_the_other(source: Double, widget: Studio) -> None:
    widget._relay.outbox._silent_s = 0.5
    gone, here = Browser(widget, "gone"), Browser(widget, "here")
    gone.ready()
    here.ready()
    source.make()
    here.say("played", frame=8, take=0, hidden=False)
    assert widget.playhead == 0

    def moved() -> bool:
        here.say("ping", id=1)
        return widget.playhead == 8

    here.wait(moved)
    assert widget._relay.outbox.clients == ("here",)


def test_the_playhead_reaches_the_source(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    source.make()
    page.say("played", frame=5, take=0, hidden=False)
    assert source.consumers[0].frame == 5
    assert widget.playhead == 5
    page.say("played", frame=9, take=3, hidden=False)  # of another take
    assert widget.playhead == 5


def test_two_pages_of_one_widget(source: Double, widget: Studio) -> None:
    front, back = Browser(widget, "front"), Browser(widget, "back")
    front.ready()
    back.ready()
    source.make()
    assert len(source.consumers) == 1
    front.say("played", frame=8, take=0, hidden=False)
    back.say("played", frame=3, take=0, hidden=False)
    assert widget.playhead == 3  # the slower one counts
    back.say("played", frame=3, take=0, hidden=True)
    front.say("played", frame=8, take=0, hidden=False)
    assert widget.playhead == 8  # unless nobody can see it
    back.say("bye")
    assert len(source.consumers) == 1
    front.say("bye")
    assert source.consumers == []


def test_two_widgets_on_one_source(source: Double) -> None:
    one, two = Studio(source), Studio(source)
    first, second = Browser(one), Browser(two)
    first.ready()
    second.ready()
    assert len(source.consumers) == 2
    assert len(senders()) == 2
    source.make()
    first.wait(lambda: first.of("block"))
    second.wait(lambda: second.of("block"))
    one.close()
    assert len(source.consumers) == 1
    assert len(source.listeners) == 1
    two.close()
    assert source.consumers == []
    assert source.listeners == []
    assert senders() == []


def test_a_reloaded_page_goes_on_where_it_was(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    for _ in range(6):
        source.make()
    page.wait(lambda: page.blocks[-1:] == [5])
    page.say("played", frame=40, take=0, hidden=False)
    page.say("bye")
    page.say("ack", serial=1)  # late: it does not bring the page back
    assert source.consumers == []
    again = Browser(widget, "reloaded")
    again.ready()
    hello = again.wait(lambda: again.of("hello"))[0]
    assert hello["playhead"] == 40
    again.wait(lambda: again.blocks == [2, 3, 4, 5])
    assert source.consumers[0].frame == 40


def test_a_switch_from_the_browser(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    source.make()
    reply = page.ask("switch", prompt="the blue ball jumps", policy="keep", at=None)
    assert reply["error"] is None
    assert reply["effective_block"] == 1
    assert page.wait(lambda: page.of("switch"))[0]["switch"]["policy"] == "keep"
    assert page.wait(lambda: page.of("timeline"))[-1]["segments"][1]["prompt"] == "the blue ball jumps"
    source.make()
    page.wait(lambda: page.blocks[-1:] == [1])
    assert page.of("block")[-1]["switch"]["effective_block"] == 1
    late = Browser(widget, "late")
    late.ready()
    assert late.wait(lambda: late.of("hello"))[-1]["switches"][0]["prompt"] == "the blue ball jumps"


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("", "must not be empty"),
        ("  \n", "must not be empty"),
        ("x" * 10_000, "at most 2000 characters"),
        ("a\x00b", "control characters"),
        ("a\x1bb", "control characters"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused_and_the_session_goes_on(
    source: Double, widget: Studio, prompt: str, why: str
) -> None:
    page = Browser(widget)
    page.ready()
    source.make()
    before = source.timeline
    reply = page.ask("switch", prompt=prompt, policy=None, at=None)
    assert why in reply["error"]
    assert source.timeline == before
    assert widget.errors == []
    source.make()
    page.wait(lambda: page.blocks[-1:] == [1])


@pytest.mark.parametrize("prompt", ["<img src=x onerror=alert(1)>", "🦊 runs", "الثعلب يركض", "a\nb"])
def test_prompts_are_data(source: Double, widget: Studio, prompt: str) -> None:
    page = Browser(widget)
    page.ready()
    assert page.ask("switch", prompt=prompt, policy=None, at=3)["error"] is None
    assert page.wait(lambda: page.of("timeline"))[-1]["segments"][1]["prompt"] == prompt
    html = widget._fallback()
    assert "<img src=x" not in html


def test_the_timeline_is_edited_from_both_sides(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    put = {"op": "put", "segment": {"prompt": "b", "start_block": 4}}
    assert page.ask("edit", do="apply", operation=put, version=0)["version"] == 1
    widget.append("d", 9)
    page.wait(lambda: page.of("timeline")[-1]["segments"][-1]["start"] == 9)
    widget.edit(2, "e")
    assert page.ask("edit", do="apply", operation={"op": "remove", "segments": [1]})["error"] is None
    assert [(s.prompt, s.start) for s in source.timeline.segments][1:] == [("e", 9)]
    widget.undo()
    assert page.ask("edit", do="undo")["error"] is None
    assert [s.prompt for s in widget.timeline.segments][1:] == ["b", "d"]
    widget.redo()
    widget.apply({"op": "mark", "marker": {"block": 3, "name": "here"}})
    last = page.wait(lambda: [m for m in page.of("timeline") if m["markers"]])[-1]
    assert last["markers"] == [{"block": 3, "name": "here"}]
    assert last["history"]["undo"] == "mark"
    assert last["history"]["version"] == page.ask("edit", do="redo")["version"]


def test_an_edit_of_what_has_moved_is_refused(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    widget.append("b", 4)
    change = {"op": "change", "segments": [1], "changes": {"prompt": "c"}}
    assert "changed meanwhile" in page.ask("edit", do="apply", operation=change, version=0)["error"]
    assert "`segment`" in page.ask("edit", do="apply", operation={**change, "segments": [7]}, version=1)["error"]
    assert widget.timeline.segments[1].prompt == "b"


def test_an_edit_of_the_past_offers_what_can_be_done(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    for _ in range(3):
        source.make()
    change = {"op": "change", "segments": [0], "changes": {"prompt": "c"}}
    reply = page.ask("edit", do="apply", operation=change, version=0)
    assert reply["past"] == {"block": 0, "begun": 3, "choices": ["keep", "fork", "regenerate"]}
    assert source.timeline.segments[0].prompt != "c"
    assert page.ask("edit", do="apply", operation=change, version=0, past="keep")["error"] is None
    assert [(s.prompt, s.start) for s in source.timeline.segments][1:] == [("c", 3)]


def test_play_pause_step_restart(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    for command, state in [("pause", "paused"), ("play", "warming"), ("pause", "paused"), ("step", "warming")]:
        assert page.ask(command)["error"] is None
        assert widget.state == source.state == state
    source.make()
    assert page.ask("restart", seed=11)["error"] is None
    restarted = page.wait(lambda: page.of("restart"))[0]
    assert restarted["take"] == 1
    assert restarted["seed"] == 11 == source.seed
    source.make()
    page.wait(lambda: any(block["take"] == 1 for block in page.of("block")))
    page.say("played", frame=3, take=1, hidden=False)
    assert widget.playhead == 3


def test_a_restart_drops_what_was_not_sent(source: Double, widget: Studio) -> None:
    page = Browser(widget, confirms=False)
    page.ready()
    for _ in range(5):
        source.make()
    page.wait(lambda: len(page.of("block")) == 2)
    widget.restart()
    page.say("ack", serial=2)
    page.quiet(0.2)
    assert len(page.of("block")) == 2


def test_an_error_of_the_generator_is_told_and_kept_for_pages_to_come(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    report = ErrorReport(message="the ball broke; press Go on", traceback="Traceback ...")
    for listener in list(source.listeners):
        listener(Event("error", report))
        listener(Event("state", "error"))
    assert page.wait(lambda: page.of("error"))[0]["message"] == report.message
    late = Browser(widget, "late")
    late.ready()
    assert late.wait(lambda: late.of("hello"))[-1]["error"]["traceback"] == report.traceback
    widget._relay.listen(Event("state", "playing"))
    last = Browser(widget, "last")
    last.ready()
    assert last.wait(lambda: last.of("hello"))[-1]["error"] is None


def test_unknown_words(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    page.say("words", id=5, text="a red foxx <b>")
    answer = page.wait(lambda: page.of("words"))[0]
    assert answer["id"] == 5
    assert answer["client"] == "page"
    assert answer["unknown"][0] == {"word": "foxx", "start": 6, "end": 10, "nearest": "fox"}


@pytest.mark.parametrize(
    "content", [None, "play", {"type": "play"}, {"type": "switch", "client": "page", "id": 1, "prompt": 3}]
)
def test_messages_that_make_no_sense_change_nothing(source: Double, widget: Studio, content: object) -> None:
    widget._receive(widget, content, None)
    assert source.state == "idle"
    assert len(widget.errors) == 1
    assert "was not understood" in widget.errors[0]


def test_errors_of_the_front_end_are_shown_in_python(widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    for i in range(module.KEPT_ERRORS + 5):
        page.say("failure", message=f"oops {i}", stack="at x.ts")
    assert len(widget.errors) == module.KEPT_ERRORS
    assert widget.errors[-1] == f"oops {module.KEPT_ERRORS + 4}\nat x.ts"


def test_an_unexpected_error_of_the_source_is_told_on_both_sides(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    source.step = lambda: 1 / 0  # type: ignore[method-assign]
    assert page.ask("step")["error"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in widget.errors[-1]


def test_frames_that_cannot_be_sent_do_not_stop_the_rest(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    bad = DecodedBlock(index=0, first_frame=0, frames=np.zeros((2, 4, 4, 1), np.uint8), prompt="", segment=0)
    widget._relay.listen(Event("block", bad))
    source.make()
    page.wait(lambda: page.blocks == [0, 0])
    assert "uint8 [T, H, W, 3]" in widget.errors[-1]


def test_without_the_jpeg_library(source: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ImportError, match="pip install simplejpeg"):
        Studio(source)


def test_closing_leaves_nothing(source: Double) -> None:
    widget = Studio(source)
    page = Browser(widget)
    page.ready()
    source.make()
    page.wait(lambda: page.of("block"))
    widget.close()
    widget.close()
    assert senders() == []
    assert source.consumers == []
    assert source.listeners == []
    assert repr(widget) == "Studio(closed)"
    with pytest.raises(RuntimeError, match="closed"):
        widget.play()
    page.ready()  # a message that was under way
    assert senders() == []


def test_a_closed_source_is_shown_as_such(source: Double, widget: Studio) -> None:
    source.make()
    source.close()
    page = Browser(widget)
    page.ready()
    assert page.wait(lambda: page.of("hello"))[0]["state"] == "closed"
    assert source.consumers == []
    assert widget.errors == []


def test_a_closed_widget_does_not_keep_its_source() -> None:
    source = Double(threaded=False)
    widget, alive = Studio(source), weakref.ref(source)
    widget.close()
    del source
    gc.collect()
    assert alive() is None


def test_running_a_cell_again_closes_the_widgets_it_made(source: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.widgets.cells.running_cell", lambda: ("cell", "first run"))
    one, two = Studio(source), Studio(source)
    monkeypatch.setattr("studio.widgets.cells.running_cell", lambda: ("other cell", "a run"))
    other = Studio(source)
    monkeypatch.setattr("studio.widgets.cells.running_cell", lambda: ("cell", "second run"))
    new = Studio(source)
    assert [repr(w) == "Studio(closed)" for w in (one, two, other, new)] == [True, True, False, False]
    for widget in (other, new):
        widget.close()


def test_a_saved_notebook_shows_a_picture(source: Double, widget: Studio) -> None:
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == "Studio(double, 48x32, 16 frames/s, idle)"
    assert "<img" not in data["text/html"]
    with pytest.raises(RuntimeError, match="no frame to show yet"):
        widget.film_strip()
    for _ in range(3):
        source.make()
    assert 'src="data:image/jpeg;base64,' in widget._repr_mimebundle_()[0]["text/html"]
    assert Image.open(io.BytesIO(widget.film_strip(5))).size == (5 * 48, 32)


def test_the_subshell_guard() -> None:
    class Comm74:
        """Behaves as the comm of ipykernel 7.4.0."""

        def __init__(self) -> None:
            self._reply_subshell_id = None

        def _reply_subshell_for(self, data, default):
            return getattr(self, "_reply_subshell_id", default)

    comm = Comm74()
    assert comm._reply_subshell_for({}, "subshell") is None  # to the main shell, busy until the cell ends
    assert keep_subshell(comm)
    assert comm._reply_subshell_for({}, "subshell") == "subshell"
    assert not keep_subshell(object())
    assert not keep_subshell(None)


@pytest.fixture
def forking():
    double = Forking(threaded=False, block_s=0, size=(32, 48))
    yield double
    double.close()


def test_a_page_gets_what_it_asks_for_from_long_ago(forking: Forking) -> None:
    widget = Studio(forking)
    page = Browser(widget)
    for _ in range(12):
        forking.make()
    page.ready()
    hello = page.wait(lambda: page.of("hello"))[0]
    assert (hello["live"], hello["made"], hello["forkable"]) == (8, 9 + 11 * 12, True)
    page.wait(lambda: page.blocks == [8, 9, 10, 11])
    page.say("want", take=0, block=2, count=3)
    page.wait(lambda: page.blocks[4:] == [2, 3, 4])
    asked = next(message for message in page.of("block") if message["index"] == 3)
    assert (asked["first"], asked["end"]) == (33, 45)
    page.say("want", take=0, block=40, count=2)
    page.wait(lambda: page.of("missing"))
    assert page.of("missing")[0] == {"type": "missing", "take": 0, "block": 40, "next": 12}
    page.say("want", take=9, block=0, count=1)
    page.wait(lambda: len(page.of("missing")) >= 3)
    widget.close()
    assert widget.errors == []


def test_what_is_asked_for_waits_its_turn_and_the_last_question_counts(forking: Forking) -> None:
    widget = Studio(forking)
    for _ in range(12):
        forking.make()
    page = Browser(widget, confirms=False)
    page.ready()
    page.wait(lambda: len(page.of("block")) == 2)
    page.say("want", take=0, block=0, count=4)
    page.say("want", take=0, block=8, count=1)  # under way already
    page.say("want", take=0, block=5, count=1000)
    page.quiet()
    assert page.blocks == [8, 9]
    assert widget._relay.outbox.in_flight == 2
    page.confirms = True
    page.say("ack", serial=2)
    # At most eight at a time, none that is under way, and then those that come by themselves.
    page.wait(lambda: page.blocks[2:] == [5, 6, 7, 10, 11, 10, 11])
    assert [message["block"] for message in page.of("missing")] == [12]
    widget.close()


def test_takes_from_the_browser(forking: Forking) -> None:
    widget = Studio(forking)
    page = Browser(widget)
    page.ready()
    for _ in range(6):
        forking.make()
    assert page.ask("fork", at=4, prompt="a blue fox", policy="keep", seed=11, name="other")["error"] is None
    restart = page.wait(lambda: page.of("restart"))[0]
    assert (restart["take"], restart["live"], restart["made"], restart["start"]) == (1, 4, 45, 44)
    assert [take["name"] for take in page.wait(lambda: page.of("takes"))[-1]["takes"]] == ["take 1", "other"]
    assert widget.timeline.segment_at(4).policy == "keep"
    block = forking.make()
    assert (block.index, block.take, block.prompt) == (4, 1, "a blue fox")
    # The other take stays within reach, for a comparison.
    page.say("want", take=0, block=5, count=1)
    page.wait(lambda: [m for m in page.of("block") if (m["take"], m["index"]) == (0, 5)])
    for fields, words in [
        ({"at": 40, "prompt": None, "policy": None, "seed": None, "name": ""}, "`at` must be a block that was made"),
        ({"at": 1, "prompt": " ", "policy": None, "seed": None, "name": ""}, "prompt"),
    ]:
        assert words in page.ask("fork", **fields)["error"]
    assert page.ask("take", do="choose", take=0, name=None, at=None)["error"] is None
    restart = page.wait(lambda: page.of("restart")[1:])[0]
    assert (restart["take"], restart["live"], restart["start"]) == (0, 6, 0)
    widget.close()
    assert widget.errors == []


def test_a_source_without_takes_cannot_be_forked(source: Double, widget: Studio) -> None:
    page = Browser(widget)
    page.ready()
    assert page.wait(lambda: page.of("hello"))[0]["forkable"] is False
    reply = page.ask("fork", at=0, prompt=None, policy=None, seed=None, name="")
    assert "cannot be forked" in reply["error"]
