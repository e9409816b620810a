"""The views of the cache without a browser: what they send, their tables and figures, and what they leave behind."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from studio.live import Session
from studio.model.text import WordTokenizer
from studio.timeline import Segment, Timeline
from studio.widgets import CacheStrip, HeadGrid, PointGaze, Studio, WordsOverTime
from studio.widgets.figures import words_figure
from studio.widgets.seeing import cache_message
from studio.widgets.tables import reading_at
from tests.live.doubles import WORDS, tiny_models, wait_for
from tests.widgets.double import Double
from tests.widgets.recorder import Browser

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"
VIEWS = [CacheStrip, WordsOverTime, HeadGrid]
ALL = [*VIEWS, PointGaze]


@pytest.fixture(scope="module")
def models():
    models = tiny_models()
    models.text.tokenizer = WordTokenizer(WORDS)
    return models


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
    mass, words, rest, heat = np.split(values, np.cumsum(message["counts"])[:-1])
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


def test_the_gaze_of_a_point(session, tmp_path) -> None:
    view = PointGaze(session)
    page = Browser(view)
    page.ready()
    session.step()
    page.wait(lambda: page.of("cache"))
    with pytest.raises(ValueError, match="no point was read at block 0"):
        view.figure()
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
    np.testing.assert_array_equal(numbers[-message["counts"][-1] :], reading.gaze.ravel())
    view.figure(5).savefig(tmp_path / "gaze.pdf")
    assert page.ask("look", frame=None, row=None, column=None)["error"] is None
    view.close()
    with pytest.raises(RuntimeError, match="this widget is closed"):
        view.look(0, 0, 0)
