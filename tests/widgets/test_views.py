"""The views of the cache without a browser: what they send, their tables and figures, and what they leave behind."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from PIL import Image

from studio.live import Session
from studio.probes import AttentionProbe, ResidueFollower, Watch, classify_heads
from studio.timeline import Segment, Timeline
from studio.widgets import CacheStrip, Curves, HeadGrid, PointGaze, Studio, WordsOverTime
from studio.widgets.again import Again
from studio.widgets.figures import words_figure
from studio.widgets.seeing import cache_message
from studio.widgets.tables import reading_at
from tests.live.doubles import wait_for, worded_models
from tests.widgets.double import Double
from tests.widgets.recorder import Browser

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"
VIEWS = [CacheStrip, WordsOverTime, HeadGrid]
ALL = [*VIEWS, PointGaze]


@pytest.fixture(scope="module")
def models():
    return worded_models()


@pytest.fixture
def session(models):
    timeline = Timeline((Segment(PROMPT), Segment(NEXT, 5, policy="recache")), length=7)
    with Session(models, timeline=timeline) as made:
        yield made


@pytest.mark.parametrize("kind", ALL)
def test_a_view_hears_every_block_and_holds_nothing_back(session, kind) -> None:
    view = kind(session)
    page = Browser(view)
    page.ready()
    page.wait(lambda: page.of("hello"))
    assert session.state == "idle"
    list(session.frames())
    page.wait(lambda: len(page.of("cache")) == 7)
    assert [message["block"] for message in page.of("cache")] == list(range(7))
    assert page.of("block") == []
    assert page.of("hello")[0]["frames"] is False
    assert "blocks 0 to 6" in repr(view)
    view.close()
    assert session._core.observer is None
    assert "closed" in repr(view)


def test_the_message_says_what_the_reading_says(session) -> None:
    with session.watch() as watching:
        list(session.frames())
        reading = watching.at(5)
        assert reading is not None
        message, (numbers, jpegs) = cache_message(reading)
    values = np.frombuffer(numbers, dtype="<f4")
    mass, words, rest, heat, gaze, gazes, positions = np.split(values, np.cumsum(message["counts"])[:-1])
    assert gaze.size == gazes.size == 0
    assert reading.positions is not None and reading.trace is not None
    np.testing.assert_array_equal(positions, reading.positions.ravel())
    assert [(word[0], word[2], word[3]) for word in message["trace"]["words"]] == [
        (word.prompt, word.text, word.share) for word in reading.trace.words
    ]
    assert {word[0] for word in message["trace"]["words"]} == {0, 1}  # the kept sink still has the old words
    np.testing.assert_array_equal(mass, reading.mass.ravel())
    assert reading.words is not None
    total = words.reshape(2, 2, -1).sum(-1) + rest.reshape(2, 2)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    np.testing.assert_allclose(heat.reshape(3, -1, 4).mean(axis=(0, 1)), words.reshape(4, -1).mean(axis=0), atol=1e-5)
    assert message["grid"][0] * message["grid"][1] == heat.size // (3 * 4)
    assert message["words"] == NEXT.split()
    for slot, sent in zip(reading.slots, message["slots"], strict=True):
        assert sent == [slot.frame, slot.role, slot.prompt, slot.written, slot.block]
    assert message["before"] is not None
    assert {sent[2] for sent in message["before"]} == {0}
    at = 0
    for size, picture in zip(message["sizes"], reading.pictures, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(jpegs[at : at + size])), dtype=float)
        assert np.abs(shown - picture).mean() < 12
        at += size
    assert at == len(jpegs)


def test_a_page_that_comes_late_gets_the_past(session) -> None:
    view = CacheStrip(session)
    list(session.frames())
    wait_for(lambda: session.state == "finished")
    page = Browser(view)
    page.ready()
    page.wait(lambda: len(page.of("cache")) == 7)
    view.close()


def test_the_studio_watches_while_its_inspector_is_open(session) -> None:
    studio = Studio(session)
    assert session._core.observer is None
    page = Browser(studio)
    page.ready()
    assert page.wait(lambda: page.of("hello"))[0]["watchable"] is True
    page.wait(lambda: page.of("cache"))
    assert page.ask("watch", on=False)["error"] is None
    assert session._core.observer is None
    assert page.ask("watch", on=True)["error"] is None
    assert session._core.observer is not None
    assert [message["on"] for message in page.of("watch")][-2:] == [False, True]
    studio.close()
    assert session._core.observer is None


def test_an_inspector_that_is_closed_watches_nothing(session) -> None:
    studio = Studio(session, inspect=False)
    page = Browser(studio)
    page.ready()
    page.wait(lambda: page.of("block"))
    assert session._core.observer is None
    assert page.of("cache") == []
    studio.close()


def test_what_cannot_be_watched() -> None:
    source = Double(threaded=False)
    with pytest.raises(TypeError, match="the cache of `source` must let itself be watched, got Double"):
        CacheStrip(source)
    studio = Studio(source)
    page = Browser(studio)
    page.ready()
    assert page.wait(lambda: page.of("hello"))[0]["watchable"] is False
    assert "cannot be watched" in page.ask("watch", on=True)["error"]
    with pytest.raises(ValueError, match="cannot be watched"):
        studio.watch()
    studio.close()
    source.close()


def test_tables(session) -> None:
    strip, words, heads = (kind(session) for kind in VIEWS)
    list(session.frames())
    slots = [row for row in strip.to_rows() if row["block"] == 5]
    assert sum(row["attention"] for row in slots) == pytest.approx(1, abs=1e-5)
    assert {row["prompt"] for row in slots if not row["own"] and row["role"] == "window"} == {NEXT}
    assert {row["written"] for row in slots if not row["own"] and row["role"] == "window"} == {"recache"}
    assert [row["word"] for row in words.to_rows() if row["block"] == 6] == NEXT.split()
    for row in heads.to_rows():
        assert row["sink"] + row["between"] + row["own"] == pytest.approx(1, abs=1e-5)
    assert len(heads.to_rows()) == 7 * 2 * 2
    assert {row["kind"] for row in heads.to_rows()} <= {"sink", "self_block", "dynamic"}
    traced = [row for row in words.to_trace_rows() if row["block"] == 5]
    assert {row["prompt"]: row["in_force"] for row in traced} == {PROMPT: False, NEXT: True}
    for view in (strip, words, heads):
        view.close()


@pytest.mark.parametrize("kind", VIEWS)
def test_figures(session, kind, tmp_path) -> None:
    view = kind(session)
    with pytest.raises(ValueError, match="nothing was read"):
        view.figure()
    assert "Run the cell" in view._fallback()
    list(session.frames())
    figure = view.figure(5)
    figure.savefig(tmp_path / "view.svg")
    figure.savefig(tmp_path / "view.pdf")
    text = (tmp_path / "view.svg").read_text()
    assert "<svg" in text
    assert figure.get_size_inches()[0] == pytest.approx(6.75)
    assert "data:image/png" in view._fallback()
    bundle = view._repr_mimebundle_()[0]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "data:image/png" in bundle["text/html"]
    with pytest.raises(ValueError, match=r"`block` must lie in 0\.\.6, got 70"):
        view.figure(70)
    view.close()


def test_a_block_that_was_not_read_stays_white_and_is_named(session) -> None:
    view = WordsOverTime(session)
    list(session.frames())
    readings = [reading for reading in view.readings if reading.block != 2]
    mesh = words_figure(readings, []).axes[0].collections[0]
    missing = np.ma.getmaskarray(np.ma.masked_invalid(np.ma.asarray(mesh.get_array())))
    missing = missing.reshape(len(PROMPT.split()), -1)
    assert missing[:, 2].all() and not np.delete(missing, 2, axis=1).any()
    with pytest.raises(ValueError, match=r"block 2 was not read; `session.reread\(\)`"):
        reading_at(readings, 2)
    view.close()


def test_bars_of_the_figure_are_the_shares(session) -> None:
    view = CacheStrip(session)
    list(session.frames())
    figure = view.figure()
    heights = [bar.get_height() for bar in figure.axes[1].containers[0]]  # type: ignore[attr-defined]
    reading = view.readings[-1]
    np.testing.assert_allclose(heights, 100 * np.nan_to_num(reading.mass.mean(axis=(0, 1))), rtol=1e-6)
    view.close()


def test_pictures_of_the_figure_keep_their_shape(session) -> None:
    view = CacheStrip(session)
    list(session.frames())
    for block in (0, 5):
        cells = view.figure(block).axes[0]
        held = [slot.frame for slot in view.readings[block].slots if slot.frame is not None]
        assert len(cells.images) == len(held)
        height, width = view.readings[block].pictures.shape[1:3]
        for image in cells.images:
            box = image.get_window_extent()
            assert box.width / box.height == pytest.approx(width / height, rel=0.01)
    view.close()


def test_the_gaze_of_a_point(session, tmp_path) -> None:
    view = PointGaze(session)
    page = Browser(view)
    page.ready()
    session.step()
    page.wait(lambda: page.of("cache"))
    # Without a point it is drawn where the block as a whole looks.
    assert "block 0 as a whole" in view.figure().get_suptitle()
    rows, columns = view.readings[0].grid
    assert "the point must lie within" in page.ask("look", frame=0, row=rows, column=0)["error"]
    assert page.ask("look", frame=2, row=0, column=columns - 1)["error"] is None
    list(session.frames())
    table = view.to_rows()
    assert {row["block"] for row in table} == set(range(1, 7))
    for block in range(1, 7):
        assert sum(row["attention"] for row in table if row["block"] == block) == pytest.approx(1, abs=1e-5)
    page.wait(lambda: len(page.of("cache")) == 7)
    message = page.of("cache")[-1]
    reading = view.readings[-1]
    assert message["point"] == [2, 0, columns - 1]
    assert reading.gaze is not None
    numbers = np.frombuffer(cache_message(reading)[1][0], dtype="<f4")
    parts = np.split(numbers, np.cumsum(message["counts"])[:-1])
    np.testing.assert_array_equal(parts[4], reading.gaze.ravel())
    assert reading.gazes is not None
    np.testing.assert_array_equal(parts[5], reading.gazes.ravel())
    view.figure(5).savefig(tmp_path / "gaze.pdf")
    assert "layer 1, head 0" in view.figure(5, layer=1, head=0).get_suptitle()
    with pytest.raises(ValueError, match="`layer` must be one of"):
        view.figure(5, layer=7)
    assert sum(row["attention"] for row in view.to_position_rows() if row["block"] == 0) == pytest.approx(1, abs=1e-5)
    assert page.ask("look", frame=None, row=None, column=None)["error"] is None
    view.close()
    with pytest.raises(RuntimeError, match="this widget is closed"):
        view.look(0, 0, 0)


def test_old_words_stand_in_the_figure_at_half_height(session) -> None:
    view = WordsOverTime(session)
    list(session.frames())
    top, bottom = (axis for axis in view.figure().axes if axis.get_title(loc="left"))
    left = next(each for each in top.collections if isinstance(each, PatchCollection))
    found = {(block.vertices[0][0] + 0.5, round(block.vertices[0][1] + 0.22)) for block in left.get_paths()}
    assert found == {(block, index) for block in (5, 6) for index in range(len(PROMPT.split()))}
    wanted = [100 * word.share for r in view.readings[5:] for word in r.trace.words if word.prompt == 0]
    np.testing.assert_allclose(np.asarray(left.get_array()), wanted)
    assert not next(each for each in bottom.collections if isinstance(each, PatchCollection)).get_paths()
    view.close()


def test_the_kinds_of_heads_are_those_of_the_probes(session) -> None:
    """The table pools blocks by slots, the taxonomy the passes themselves."""
    probe = AttentionProbe(session._core.models.dit.config, steps=2, keep=None)
    view = HeadGrid(session)
    with Watch(session._core.models.dit, session._core.models.config.sampler, probe):
        list(session.frames())
    wanted = classify_heads(probe.readings)
    found = {(row["layer"], row["head"]): row["kind"] for row in view.to_rows()}
    assert found == {(row["layer"], row["head"]): row["kind"] for row in wanted.rows()}
    view.close()


def test_the_page_is_told_when_watching_dies_and_can_begin_again(session, monkeypatch) -> None:
    view = CacheStrip(session)
    page = Browser(view)
    page.ready()
    page.wait(lambda: page.of("hello"))

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(AttentionProbe, "end", fail)
    session.step()
    told = page.wait(lambda: [message for message in page.of("watch") if message["trouble"]])[-1]
    assert (told["on"], told["trouble"]) == (False, "the cache is no longer watched: MemoryError: no room")
    assert view.readings == ()
    # A page that comes later hears of it as well.
    late = Browser(view, "late")
    late.ready()
    hello = late.wait(lambda: late.of("hello"))[0]
    assert (hello["watching"], hello["trouble"]) == (False, told["trouble"])
    monkeypatch.undo()
    wait_for(lambda: session.state == "paused")
    assert page.ask("watch", on=True)["error"] is None
    assert page.of("watch")[-1] == {"type": "watch", "on": True, "measuring": False, "trouble": None}
    session.step()
    page.wait(lambda: page.of("cache"))
    view.close()


def test_the_page_is_told_when_the_residue_alone_dies(session, monkeypatch) -> None:
    view = Curves(session)
    page = Browser(view)
    page.ready()

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(ResidueFollower, "expect", fail)
    list(session.frames())
    told = page.wait(lambda: [message for message in page.of("watch") if message["trouble"]])[-1]
    assert (told["on"], told["measuring"]) == (True, False)
    assert "the residue is no longer measured: MemoryError" in told["trouble"]
    page.wait(lambda: len(page.of("cache")) == 7)
    monkeypatch.undo()
    assert page.ask("measure", on=True)["error"] is None
    assert page.of("watch")[-1]["trouble"] is None
    view.close()


def test_a_point_of_a_finished_take(session) -> None:
    view = PointGaze(session)
    page = Browser(view)
    page.ready()
    list(session.frames())
    page.wait(lambda: len(page.of("cache")) == 7)
    assert page.of("hello")[0]["looks_back"] is True
    assert page.ask("look", frame=1, row=0, column=1, block=4)["error"] is None
    page.wait(lambda: len(page.of("cache")) == 8, 60)
    message = page.of("cache")[-1]
    assert (message["block"], message["point"]) == (4, [1, 0, 1])
    page.wait(lambda: page.of("again") and not page.of("again")[-1]["busy"])
    assert page.of("again")[0] == {"type": "again", "busy": True, "error": None}
    # A failure is said, and it can be asked for again.
    assert page.ask("look", frame=1, row=0, column=1, block=40)["error"] is None
    page.wait(lambda: page.of("again")[-1]["error"])
    assert "`block` must lie in 0..6, got 40" in page.of("again")[-1]["error"]
    assert page.ask("reread", block=2)["error"] is None
    page.wait(lambda: page.of("again")[-1] == {"type": "again", "busy": False, "error": None})
    assert view.errors == []
    view.close()


def test_of_many_points_the_newest_counts() -> None:
    looked, gate = [], threading.Event()

    class Slow:
        name = "slow"

        def look_back(self, *place: int) -> None:
            looked.append(place)
            gate.wait(10)

    told: list[dict[str, object]] = []
    again = Again(Slow(), told.append)
    for column in range(5):
        again.look_back(3, 0, 0, column)
        wait_for(lambda: looked)
    gate.set()
    wait_for(lambda: told[-1]["busy"] is False)
    assert looked == [(3, 0, 0, 0), (3, 0, 0, 4)]
    assert not again.possible
    with pytest.raises(ValueError, match="`slow` cannot make its blocks once more"):
        again.reread(False)
