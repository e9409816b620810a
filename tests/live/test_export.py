"""Exports: whole or not at all, with log and timeline, beside playing."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from studio.live import Session, read_log, replay
from studio.live.export import Film
from studio.live.exporting import Cancelled, kind_of
from studio.live.pictures import Gif, Pngs, gif_words, png_words
from studio.timeline import Timeline

pytestmark = pytest.mark.usefixtures("one_thread")

av = pytest.importorskip("av")
FOX, SEA = "a red fox runs", "a blue rabbit jumps"


@pytest.fixture
def session(models):
    with Session(models, timeline=Timeline.of(FOX, length=4).append(SEA, 2)) as session:
        list(session.frames())
        yield session


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9"), ("b.gif", "gif"), ("c.mp4", "av1")])
def test_films_hold_every_frame_the_log_and_the_timeline(session, models, tmp_path, name, codec):
    export = session.export(tmp_path / name, codec="av1" if codec == "av1" else None)
    path = export.wait(60)
    assert export.progress == (45, 45)
    assert (export.state, export.error) == ("done", None)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert codec in (stream.codec_context.name, stream.codec_context.codec.canonical_name)
        assert (stream.width, stream.height) == (24, 16)
        assert float(film.duration or 0) / 1e6 == pytest.approx(45 / 16, abs=0.15)
    shown = pictures(path)
    assert len(shown) == 45
    # Random weights make noise, the hardest there is for any codec; the order of the frames is still plain.
    truth = session.clip(0, 45).astype(int)
    off = np.array([[np.abs(one.astype(int) - other).mean() for other in truth] for one in shown[::9]])
    assert off.argmin(axis=1).tolist() == [0, 9, 18, 27, 36]
    log = read_log(path)
    assert log == session.log
    assert replay(log, models).same
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_the_timeline_is_in_the_words_of_each(session, tmp_path):
    session.export(tmp_path / "a.gif").wait(60)
    words = gif_words(tmp_path / "a.gif")
    assert Timeline.from_json(words["timeline"]) == session.timeline
    with av.open(str(session.export(tmp_path / "a.webm").wait(60))) as film:
        tags = {name.lower(): text for name, text in film.metadata.items()}
    assert Timeline.from_json(tags["comment"]) == session.timeline


def test_a_folder_of_pictures_is_exact_and_tells_of_itself(session, models, tmp_path):
    folder = session.export(tmp_path / "frames", start=5, stop=25).wait(60)
    files = sorted(item.name for item in folder.glob("*.png"))
    assert files == [f"{i:06d}.png" for i in range(20)]
    shown = np.concatenate([pictures(folder / name) for name in files])
    assert np.array_equal(shown, session.clip(5, 25))
    words = png_words(folder / files[0])
    assert Timeline.from_json(words["timeline"]) == session.timeline
    assert words["frames"] == "5 25"
    # Three blocks hold these frames; their log is enough to make them again.
    assert read_log(folder) == read_log(folder / files[0]) == list(session.log)[:3]
    (folder / "log.json").unlink()
    assert len(read_log(folder)) == 3
    assert png_words(folder / files[1]) == {}


def test_latents_of_a_range_begin_with_a_block(session, tmp_path):
    path = session.export(tmp_path / "a.safetensors", start=10, stop=30).wait(60)
    with safe_open(str(path), "pt") as file:
        latents, words = file.get_tensor("latents"), file.metadata()
    assert words["first_block"] == "1"
    assert Timeline.from_json(words["timeline"]) == session.timeline
    assert torch.equal(latents, torch.cat(session.latents[1:3], dim=1))


def test_exact_pictures_are_those_that_were_generated(models, tmp_path):
    with Session(models, timeline=Timeline.of(FOX, length=8)) as session:
        ring = session._core.take.ring
        ring.budget, ring.least = 0, 1
        made = np.concatenate(list(session.frames()))
        session._core.archive.wait(0)
        assert not np.array_equal(session.clip(0, 20), made[:20])  # kept as JPEG by now
        folder = session.export(tmp_path / "frames", start=3, stop=60, exact=True).wait(60)
        shown = np.concatenate([pictures(path) for path in sorted(folder.glob("*.png"))])
        assert np.array_equal(shown, made[3:60])


def test_another_take_is_exported_while_this_one_plays(models, tmp_path):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        frames = session.frames()
        for _ in range(4):
            next(frames)
        session.fork(2, prompt=SEA, name="sea")
        export = session.export(tmp_path / "first.mp4", take="take 1", stop=45)
        for _ in range(3):
            next(frames)
        assert len(pictures(export.wait(60))) == 45
        assert [record.prompt for record in read_log(export.path)] == [FOX] * 4
        with pytest.raises(ValueError, match="there is no take"):
            session.export(tmp_path / "b.mp4", take="moon")


@pytest.fixture
def slow(monkeypatch):
    """Lets writers go on frame by frame, when they are told to."""
    go = threading.Event()
    for kind in (Film, Gif, Pngs):
        write = kind.write

        def one(self, frames, write=write):
            write(self, frames)
            assert go.wait(60)

        monkeypatch.setattr(kind, "write", one)
    yield go
    go.set()


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames"])
def test_cancelling_leaves_no_half_file_and_what_was_there_before(session, tmp_path, slow, name):
    export = session.export(tmp_path / name)
    changes = []
    export.changed = lambda: changes.append(export.state)
    assert export.state == "running"
    with pytest.raises(TimeoutError, match=r"of 45 frames are written; wait again, or cancel"):
        export.wait(0.1)
    assert not (tmp_path / name).exists()
    export.cancel()
    slow.set()
    with pytest.raises(Cancelled, match="was cancelled; nothing was written"):
        export.wait(60)
    assert (export.state, export.error) == ("cancelled", None)
    assert changes[-1] == "cancelled"
    assert not list(tmp_path.iterdir())
    session.export(tmp_path / name, stop=9).wait(60)
    with pytest.raises(FileExistsError, match="force=True"):
        session.export(tmp_path / name)
    slow.clear()
    again = session.export(tmp_path / name, force=True)
    again.cancel()
    slow.set()
    with pytest.raises(Cancelled):
        again.wait(60)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    session.export(tmp_path / name, force=True, stop=12).wait(60)
    assert len(read_log(tmp_path / name)) == 2
    assert [item.name for item in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames", "a.safetensors"])
def test_of_two_exports_to_one_path_the_last_to_end_wins_and_both_are_whole(session, tmp_path, name):
    # The first may have ended before the second begins: latents take no time at this size.
    exports = [session.export(tmp_path / name, start=9 * i, force=True) for i in range(2)]
    for export in exports:
        assert export.wait(60) == tmp_path / name
        assert export.state == "done"
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert len(read_log(tmp_path / name)) == 4
    if name == "frames":
        assert len(list((tmp_path / name).glob("*.png"))) in (45, 36)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames"])
def test_what_another_export_is_writing_is_not_replaced_unasked(session, tmp_path, slow, name):
    export = session.export(tmp_path / name)
    with pytest.raises(FileExistsError, match=r"another export is writing .*; name another file, or .* force=True"):
        session.export(tmp_path / "." / name, start=9)
    slow.set()
    assert export.wait(60) == tmp_path / name
    with pytest.raises(FileExistsError, match="exists; name another file"):
        session.export(tmp_path / name, start=9)


def test_writers_to_one_path_lie_aside_apart(tmp_path):
    pixels = np.zeros((2, 16, 24, 3), np.uint8)
    for kind, name in ((Film, "a.mp4"), (Gif, "a.gif"), (Pngs, "frames")):
        one, other = (
            kind(tmp_path / name, width=24, height=16, fps=16, tags={"description": f"the {i}"}) for i in range(2)
        )
        one.write(pixels)
        other.write(pixels[:1])
        other.close()
        one.close()
        shown = tmp_path / name
        assert len(list(shown.iterdir()) if shown.is_dir() else pictures(shown)) == 2
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.gif", "a.mp4", "frames"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    def export(count):
        with Pngs(tmp_path / "frames", width=24, height=16, fps=16) as out:
            out.write(np.zeros((count, 16, 24, 3), np.uint8))

    export(3)
    replace = os.replace

    def full(source, target):
        if source.name.endswith(".part") and list(source.glob("000000.png")) and not list(source.glob("000002.png")):
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        export(2)
    assert [item.name for item in tmp_path.iterdir()] == ["frames"]
    assert len(list((tmp_path / "frames").iterdir())) == 3


def test_closing_the_session_cancels_what_is_under_way(models, tmp_path, slow):
    session = Session(models, timeline=Timeline.of(FOX, length=3))
    list(session.frames())
    export = session.export(tmp_path / "a.mp4")
    session.close()
    slow.set()
    with pytest.raises(RuntimeError):
        export.wait(60)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="closed"):
        session.export(tmp_path / "b.mp4")


def test_an_error_is_told_and_leaves_nothing(session, tmp_path, monkeypatch):
    def broken(self, frame):
        raise OSError("no space left")

    monkeypatch.setattr(Film, "_add", broken)
    export = session.export(tmp_path / "a.mp4")
    with pytest.raises(RuntimeError, match=r"a\.mp4 could not be written: no space left"):
        export.wait(60)
    assert (export.state, export.error) == ("failed", "no space left")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_never_replaced(session, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"thesis\.txt.*no export"):
        session.export(tmp_path / "home", force=True)
    with pytest.raises(FileExistsError):
        session.export(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.avi", {}, "must be one of mp4, webm, gif, png, safetensors, got"),
        ("a.mp4", {"format": "gif"}, "ending of another format"),
        ("a.png", {}, "PNG frames go into a folder"),
        ("a", {"format": "film"}, "`format` must be one of"),
        ("a.gif", {"codec": "av1"}, "`codec` is for films"),
        ("a.webm", {"codec": "h264"}, "WebM holds no H.264"),
        ("a.mp4", {"codec": "h266"}, "`codec` must be one of h264, av1"),
        ("a.mp4", {"start": -1}, "`start` must be"),
        ("a.mp4", {"start": 45}, "`start` must be"),
        ("a.mp4", {"start": 5, "stop": 5}, "`stop` must be"),
        ("a.mp4", {"stop": 46}, "`stop` must be"),
        ("a.mp4", {"stop": 2.5}, "`stop` must be"),
        ("no/a.mp4", {}, "there is no folder"),
    ],
)
def test_bad_exports(session, tmp_path, name, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        session.export(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_nothing_made_is_nothing_to_export(models, tmp_path):
    with Session(models, timeline=Timeline.of(FOX)) as session, pytest.raises(ValueError, match="play first"):
        session.export(tmp_path / "a.mp4")


def test_formats_go_by_the_ending():
    names = {"a.mp4": "mp4", "A.WEBM": "webm", "a.gif": "gif", "frames": "png", "a.safetensors": "safetensors"}
    assert {name: kind_of(Path(name), None) for name in names} == names
    assert kind_of(Path("take.1"), "png") == "png"


def test_words_that_are_none(tmp_path):
    for read in (gif_words, png_words):
        (tmp_path / "x").write_bytes(b"something else")
        with pytest.raises(ValueError, match="not a"):
            read(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"GIF89a" + bytes(7) + b"\x21\xfe\xff")
    with pytest.raises(ValueError, match="ends in the middle"):
        gif_words(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"GIF89a" + bytes(7) + b"\x3b")
    assert gif_words(tmp_path / "x") == {}


@pytest.mark.parametrize("text", [b"", b"\x01\x00\x00\x00broken", b"\x00\x00\x00\x00\xff", b"\x01"])
def test_a_damaged_text_in_a_picture_is_told(tmp_path, text):
    data = b"log\x00" + text
    chunk = struct.pack(">I", len(data)) + b"iTXt" + data + struct.pack(">I", zlib.crc32(b"iTXt" + data))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    for read in (png_words, read_log):
        with pytest.raises(ValueError, match="text 'log' is damaged; export it again"):
            read(tmp_path / "a.png")


def test_a_film_is_no_folder(session, tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(FileExistsError, match="is a folder; name a file in it"):
        session.export(tmp_path / "a.mp4", force=True)


def test_exporting_is_beside_playing(session, tmp_path, slow):
    export = session.export(tmp_path / "a.mp4")
    session.timeline = session.timeline.with_length(6)
    session.play()
    with session.frames() as frames:
        assert sum(len(block) for block in frames) == 24
    assert export.state == "running"
    slow.set()
    # Only what was there when it began.
    assert len(pictures(export.wait(60))) == 45
