"""The curves without a browser: what is sent, tables, figures, and the name by which widgets find each other."""

from __future__ import annotations

import numpy as np
import pytest

from studio.live import Session
from studio.timeline import Segment, Timeline
from studio.widgets import CacheStrip, Curves, Studio
from studio.widgets.origins import name_of
from studio.widgets.seeing import cache_message
from tests.live.doubles import worded_models
from tests.widgets.double import Double
from tests.widgets.recorder import Browser

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture
def session():
    models = worded_models()
    timeline = Timeline((Segment(PROMPT), Segment(NEXT, 3, policy="recache")), length=5)
    with Session(models, timeline=timeline) as made:
        made.judge = lambda frames, texts: [frames.mean() / 255 + i for i, _ in enumerate(texts)]
        yield made


def test_what_is_sent_is_what_was_measured(session) -> None:
    view = Curves(session)
    page = Browser(view)
    page.ready()
    list(session.frames())
    page.wait(lambda: len(page.of("cache")) == 5)
    for message, reading in zip(page.of("cache"), view.readings, strict=True):
        assert message["alignment"] == {str(n): pytest.approx(v) for n, v in reading.alignment.items()}
        assert message["residue"] == {r.moment: pytest.approx(r.total) for r in reading.residues}
    assert [set(message["residue"]) for message in page.of("cache")] == [
        set(), set(), set(), {"before", "after", "made"}, {"made"},
    ]  # fmt: skip
    made = view.readings[4].residues[-1]
    left = page.of("cache")[4]["left"]
    held = {slot.frame: i for i, slot in enumerate(view.readings[4].slots)}
    for i, slot in enumerate(made.slots):
        wanted = np.nanmean([made.keys[:, i], made.values[:, i]])
        assert left[held[slot.frame]] == pytest.approx(float(wanted), abs=1e-6)
    view.close()


def test_an_empty_cache_is_null_to_the_browser(session) -> None:
    session.timeline = Timeline((Segment(PROMPT), Segment(NEXT, 3, policy="clear")), length=5)
    view = Curves(session)
    list(session.frames())
    message, _ = cache_message(view.readings[3])
    assert message["residue"]["after"] is None
    view.close()


def test_the_page_may_measure_and_stop(session) -> None:
    view = Curves(session, residue=False)
    page = Browser(view)
    page.ready()
    assert page.wait(lambda: page.of("hello"))[0]["measuring"] is False
    assert page.ask("measure", on=True)["error"] is None
    assert page.wait(lambda: page.of("watch"))[-1]["measuring"] is True
    view.measure(False)
    page.wait(lambda: page.of("watch")[-1]["measuring"] is False)
    view.close()
    with pytest.raises(RuntimeError, match=r"this widget is closed; make another with studio\.Curves"):
        view.measure()


def test_nothing_is_measured_where_nothing_is_watched() -> None:
    source = Double(threaded=False)
    studio = Studio(source)
    page = Browser(studio)
    page.ready()
    assert "the cache is not watched" in page.ask("measure", on=True)["error"]
    studio.close()
    source.close()


def test_table_and_figure(session, tmp_path) -> None:
    view = Curves(session)
    with pytest.raises(ValueError, match="nothing was read"):
        view.figure()
    list(session.frames())
    rows = view.to_rows()
    assert [row["block"] for row in rows if row["what"] == "residue"] == [3, 3, 3, 4]
    assert {row["of"] for row in rows if row["what"] == "alignment"} == {PROMPT, NEXT}
    figure = view.figure()
    figure.savefig(tmp_path / "curves.pdf")
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()}
    np.testing.assert_allclose(
        lines[f"shows “{PROMPT}”"], [(r.block + 1, r.alignment[0]) for r in view.readings], rtol=1e-6
    )
    left = [(3 + (row["of"] == "made") + (row["block"] - 3), row["value"]) for row in rows if row["what"] == "residue"]
    np.testing.assert_allclose(lines[f"cache, towards “{PROMPT}”"], left, rtol=1e-6)
    view.close()


def test_a_film_without_a_judge_or_a_switch_has_no_curves(session) -> None:
    session.judge = None
    view = Curves(session, residue=False)
    list(session.frames())
    assert view.to_rows() == []
    with pytest.raises(ValueError, match="neither was measured"):
        view.figure()
    view.close()


def test_widgets_of_one_source_bear_its_name(session) -> None:
    strip, curves = CacheStrip(session), Curves(session)
    pages = [Browser(view) for view in (strip, curves)]
    for page in pages:
        page.ready()
    names = {page.wait(lambda page=page: page.of("hello"))[0]["origin"] for page in pages}
    assert names == {name_of(session)}
    other = Double(threaded=False)
    assert name_of(other) not in names
    assert name_of(object.__new__(object)) != ""
    for view in (strip, curves):
        view.close()
    other.close()
