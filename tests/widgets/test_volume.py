"""The volume without a browser: its numbers against the readings, the figure of ipyvolume, slices for print."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from studio.live import Session
from studio.timeline import Segment, Timeline
from studio.widgets import Studio, Volume
from studio.widgets.spacetime import space_time
from tests.live.doubles import worded_models
from tests.widgets.recorder import Browser

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture
def session():
    models = worded_models()
    timeline = Timeline((Segment(PROMPT), Segment(NEXT, 3, policy="recache")), length=5)
    with Session(models, timeline=timeline) as made:
        yield made


def test_the_volume_of_a_word_is_its_attention_in_every_frame_under_its_prompt(session) -> None:
    with session.watch() as watching:
        list(session.frames())
        readings = watching.readings
    found = space_time(readings, "rabbit")
    assert found.frames == tuple(range(9, 15))
    assert found.what == "“rabbit”"
    for index, frame in enumerate(found.frames):
        reading = next(r for r in readings if frame in r.own)
        assert reading.words is not None
        heat = reading.words.heat(2)[:, reading.own.index(frame)].mean(axis=0)
        np.testing.assert_allclose(found.values[index], heat, rtol=1e-6)
    assert space_time(readings, 2, 4).what == "“rabbit”"
    early = space_time(readings, "fox", 2)
    assert early.frames == tuple(range(9))
    assert len(early.rows()) == early.values.size
    assert early.rows()[-1]["attention"] == pytest.approx(float(early.values[-1, -1, -1]))


def test_the_volume_of_a_point_is_its_gaze_in_the_order_of_time(session) -> None:
    with session.watch() as watching:
        session.step()
        frames = session.frames()
        next(frames)
        watching.look(1, 0, 0)
        for _ in frames:
            pass
        reading = watching.readings[-1]
        found = space_time(watching.readings)
    assert reading.gaze is not None
    assert found.frames == tuple(sorted(slot.frame for slot in reading.slots if slot.frame is not None))
    assert found.values.sum() == pytest.approx(1, abs=1e-5)
    for frame, values in zip(found.frames, found.values, strict=True):
        slot = next(i for i, slot in enumerate(reading.slots) if slot.frame == frame)
        np.testing.assert_array_equal(values, np.nan_to_num(reading.gaze[slot]))


@pytest.mark.parametrize("word", ["fox", 9, -1, True, "no such"])
def test_a_word_that_is_none_of_the_prompt_is_named(session, word) -> None:
    with session.watch() as watching:
        list(session.frames())
        with pytest.raises(
            ValueError, match=r"`word` must be one of the prompt of block 4 \(the, blue, rabbit, jumps\)"
        ):
            space_time(watching.readings, word)
        with pytest.raises(ValueError, match="no point was read at block 4"):
            space_time(watching.readings)


def test_the_figure_of_ipyvolume_holds_the_numbers(session, tmp_path) -> None:
    pytest.importorskip("ipyvolume")
    view = Volume(session)
    with pytest.raises(ValueError, match="nothing is shown yet"):
        view.figure()
    assert view.to_rows() == []
    list(session.frames())
    found = view.volume("blue")
    scene: Any = view.scene
    (drawn,) = scene.volumes
    # Time is the last axis; each latent frame fills its part of it.
    spread = drawn.data_original
    least, most = found.values.min(), found.values.max()
    for index in range(len(found.frames)):
        part = spread[:, :, (2 * index + 1) * 48 // (2 * len(found.frames))]
        wanted = (found.values[index] - least) / (most - least)
        assert part.max() == pytest.approx(float(wanted.max()), abs=1e-5)
        assert part[0, -1] == pytest.approx(float(wanted[0, 0]), abs=1e-5)  # the top row is at the top
    assert view.scened == {"block": 4, "word": "blue", "what": "“blue”", "frames": list(found.frames), "most": most}
    assert len(view.to_rows()) == found.values.size
    view.figure().savefig(tmp_path / "volume.pdf")
    view.figure(4).savefig(tmp_path / "volume.svg")
    assert "data:image/png" in view._fallback()
    view.volume("the", 3)
    assert view.scene is scene, "one figure shows one volume after the other"
    view.close()
    assert view.scene is None


def test_a_page_asks_for_a_volume(session) -> None:
    pytest.importorskip("ipyvolume")
    studio = Studio(session)
    page = Browser(studio)
    page.ready()
    list(session.frames())
    assert "`word` must be one of" in page.ask("volume", word=77, block=4)["error"]
    assert "no point was read" in page.ask("volume", word=None, block=4)["error"]
    assert page.ask("volume", word=1, block=4)["error"] is None
    assert studio.scened["what"] == "“blue”"
    studio.close()
