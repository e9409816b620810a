"""What a saved notebook shows without a kernel: pictures that need nothing from anywhere, brought up to date calmly."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
import simplejpeg

from studio.widgets import Studio
from studio.widgets import still as still_module
from studio.widgets.still import Still, clip, still_html, strip
from tests.live.doubles import wait_for
from tests.widgets.double import Double

av = pytest.importorskip("av")


def frames(count: int, height: int = 128, width: int = 192) -> list[np.ndarray]:
    return [np.full((height, width, 3), 5 * i % 250, np.uint8) for i in range(count)]


@pytest.fixture
def published(monkeypatch):
    """What reaches the notebook: kind of output by its name, and whether it replaced one."""
    found = []

    def publish(data, transient, update):
        found.append((transient["display_id"], data, update))

    monkeypatch.setattr("IPython.display.publish_display_data", publish)
    monkeypatch.setattr(still_module, "_in_notebook", lambda: True)
    return found


def test_a_strip_spans_the_frames():
    picture = simplejpeg.decode_jpeg(strip(frames(40), 5))
    assert picture.shape == (128, 5 * 192, 3)
    assert [int(picture[64, 96 + 192 * i, 0]) for i in range(5)] == pytest.approx([0, 50, 100, 145, 195], abs=3)
    assert simplejpeg.decode_jpeg(strip(frames(2), 6)).shape == (128, 2 * 192, 3)


def test_a_clip_is_small_and_moves():
    data = clip(frames(90), 16)
    assert data is not None
    assert (data[:4], data[8:12], data.count(b"ANMF")) == (b"RIFF", b"WEBP", 24)
    assert len(data) < 60_000
    # Three seconds at half the rate, the newest frame last; readers of animations are rare, so by its head.
    width, height = (1 + int.from_bytes(data[24 + i : 27 + i], "little") for i in (0, 3))
    assert (width, height) == (192, 128)
    assert clip(frames(1), 16) is None
    assert clip([], 16) is None
    large = clip(frames(8, 480, 832), 16)
    assert large is not None
    assert 1 + int.from_bytes(large[27:30], "little") == 96


def test_without_a_writer_there_is_a_strip(monkeypatch):
    monkeypatch.setattr(av, "open", lambda *_, **__: (_ for _ in ()).throw(ValueError("no such format")))
    assert clip(frames(9), 16) is None


def test_words_are_text_and_nothing_is_fetched():
    shown = still_html("a <script>alert(1)</script> & more", b"jpeg", b"webp")
    assert "<script" not in shown
    assert re.findall(r'src="(data:image/\w+)', shown) == ["data:image/webp", "data:image/jpeg"]
    assert "http" not in shown
    assert still_html("only words", None, None) == "<p>only words</p>"


def test_the_output_is_brought_up_to_date_when_the_video_rests(published):
    source = Double(threaded=False, block_s=0, size=(32, 48))
    widget = Studio(source)
    widget._repr_mimebundle_()
    widget._repr_mimebundle_()
    assert [(name, update) for name, _, update in published] == [(f"studio-still-{widget.key}", False)]
    assert "<img" not in published[0][1]["text/html"]
    for _ in range(3):
        source.make()
    wait_for(lambda: len(published) == 2)
    source.make()
    source.pause()
    wait_for(lambda: len(published) == 3)
    name, data, update = published[-1]
    assert (name, update) == (published[0][0], True)
    assert f"ls-still-{widget.key}" in data["text/html"]
    assert data["text/html"].count("<img") == 2
    picture = simplejpeg.decode_jpeg(base64.b64decode(data["image/jpeg"]))
    assert picture.shape[0] == 32
    assert "a red ball rolls in the snow" in data["text/plain"]
    widget.close()
    source.play()
    source.pause()
    assert len(published) == 3
    assert source.listeners == []
    assert widget.errors == []
    source.close()


def test_what_was_shown_stays_when_the_frames_are_gone(published):
    source = Double(threaded=False, block_s=0, size=(32, 48))
    widget = Studio(source)
    widget._repr_mimebundle_()
    for _ in range(3):
        source.make()
    still = widget._still
    assert still is not None
    wait_for(lambda: len(published) == 2)
    wait_for(lambda: not still._busy.locked())
    widget.close()
    still.refresh()  # as one that was under way when the widget was closed
    assert len(published) == 2
    source.close()


def test_outside_a_notebook_nothing_is_published(monkeypatch):
    monkeypatch.setattr("IPython.display.publish_display_data", lambda *_, **__: pytest.fail("published"))
    still = Still("ab12", lambda: frames(4), 16, lambda: "words", lambda text: None)
    still.show()
    still.refresh()


def test_an_error_is_noted(published):
    notes = []
    still = Still("ab12", list, 16, lambda: "words", notes.append)
    still.show()
    still._frames = lambda: 1 / 0  # type: ignore[assignment,return-value]
    still.refresh()
    assert notes == ["the static view could not be made: ZeroDivisionError: division by zero"]
