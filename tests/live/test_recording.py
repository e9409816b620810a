"""Recordings with what was read of the cache, and takes that are read after they were made."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

import studio
from studio.live import Session
from studio.timeline import Segment, Timeline
from studio.widgets import CacheStrip, Curves, FrameSource, HeadGrid, PointGaze, Studio, Volume, WordsOverTime
from tests.live.doubles import tiny_models, worded_models
from tests.widgets.recorder import Browser

PROMPT, NEXT = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture(scope="module")
def models() -> Any:
    return worded_models()


def open_session(models: Any, policy: str = "recache") -> Session:
    timeline = Timeline((Segment(PROMPT), Segment(NEXT, 4, policy=policy)), length=6)
    session = Session(models, timeline=timeline)
    session.judge = lambda frames, texts: [frames.mean() / 255 for _ in texts]
    return session


def same(one: Any, other: Any, path: str = "reading") -> None:
    """Every field alike, arrays bit for bit; only the clock may differ."""
    if hasattr(one, "__dataclass_fields__"):
        assert type(one) is type(other), path
        for field in fields(one):
            if field.name not in ("seconds", "spent"):
                same(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=path)
    elif isinstance(one, tuple | list) and one and hasattr(one[0], "__dataclass_fields__"):
        assert len(one) == len(other), path
        for i, (mine, yours) in enumerate(zip(one, other, strict=True)):
            same(mine, yours, f"{path}[{i}]")
    else:
        np.testing.assert_equal(one, other, err_msg=path)


@pytest.fixture(scope="module")
def recorded(models, tmp_path_factory) -> Any:
    path = tmp_path_factory.mktemp("recording") / "take.studio"
    with open_session(models) as session, session.watch() as watching:
        watching.measure_residue()
        frames = session.frames()
        next(frames)
        next(frames)
        watching.look(1, 0, 0)
        for _ in frames:
            pass
        session.record(path)
        blocks = [session.block(index) for index in range(6)]
        yield path, watching.readings, blocks, session.timeline


def test_a_recording_holds_every_reading_and_every_frame(recorded) -> None:
    path, readings, blocks, timeline = recorded
    recording = studio.open_recording(path)
    assert isinstance(recording, FrameSource)
    assert len(recording.readings) == 6
    for mine, wanted in zip(recording.readings, readings, strict=True):
        same(mine, wanted)
    assert any(reading.gaze is not None for reading in recording.readings)
    for index, wanted in enumerate(blocks):
        found = recording.block(index)
        assert found is not None
        assert (found.first_frame, found.prompt, found.segment) == (wanted.first_frame, wanted.prompt, wanted.segment)
        assert np.abs(found.frames.astype(int) - wanted.frames).mean() < 12
    turned = recording.block(4)
    assert turned is not None and turned.switch is not None
    assert turned.switch.policy == "recache"
    assert recording.block(6) is None
    assert recording.block(-1) is None
    assert recording.timeline.segments == timeline.segments
    assert recording.state == "finished"
    assert recording.stats.generated_blocks == 6
    assert "6 blocks, 6 of them watched" in repr(recording)


@pytest.mark.parametrize("kind", [CacheStrip, WordsOverTime, HeadGrid, PointGaze, Curves, Volume])
def test_every_view_works_on_a_recording(recorded, kind) -> None:
    view = kind(studio.open_recording(recorded[0]))
    page = Browser(view)
    page.ready()
    page.wait(lambda: len(page.of("cache")) == 6)
    if kind is Volume:
        pytest.importorskip("ipyvolume")
        view.volume("rabbit")
    assert view.to_rows()
    assert view.figure() is not None
    view.close()


def test_the_studio_plays_a_recording_and_cannot_steer_it(recorded) -> None:
    recording: Any = studio.open_recording(recorded[0])
    player = Studio(recording)
    page = Browser(player)
    page.ready()
    page.wait(lambda: page.of("block") and len(page.of("cache")) == 6)
    hello = page.of("hello")[0]
    assert (hello["state"], hello["watchable"], hello["rereads"]) == ("finished", True, True)
    asks: Any = (("switch", {"prompt": "a fox", "policy": None, "at": None}), ("restart", {"seed": 1}))
    for kind, asked in asks:
        assert "a recording cannot be steered" in page.ask(kind, **asked)["error"]
    assert "a recording has no next block" in page.ask("look", frame=0, row=0, column=0)["error"]
    assert page.ask("play")["error"] is None
    with pytest.raises(RuntimeError, match="cannot be steered"):
        recording.timeline = recording.timeline
    player.close()


def test_a_point_of_a_recording_is_read_as_it_would_have_been_live(models, recorded) -> None:
    recording = studio.open_recording(recorded[0], models=models)
    wanted = next(reading for reading in recorded[1] if reading.gaze is not None and reading.block > 3)
    heard: list[Any] = []
    recording.watch().subscribe(heard.append)
    assert recording.look_back(wanted.block, 0, 1, 1).point != wanted.point
    found = recording.look_back(wanted.block, 1, 0, 0)
    np.testing.assert_array_equal(found.gaze, wanted.gaze)
    np.testing.assert_array_equal(found.gazes, wanted.gazes)
    assert [reading.block for reading in heard] == [wanted.block] * 2
    same(recording.readings[wanted.block], wanted)
    with pytest.raises(ValueError, match=r"`block` must be a whole number from 0 to 5, got 6"):
        recording.look_back(6, 0, 0, 0)
    with pytest.raises(ValueError, match="the point must lie within"):
        recording.look_back(2, 3, 0, 0)


def test_a_page_reads_a_point_of_a_recording(models, recorded) -> None:
    view = PointGaze(studio.open_recording(recorded[0], models=models))
    page = Browser(view)
    page.ready()
    page.wait(lambda: len(page.of("cache")) == 6)
    assert page.ask("look", frame=0, row=1, column=2, block=0)["error"] is None
    page.wait(lambda: len(page.of("cache")) == 7, 60)
    message = page.of("cache")[-1]
    assert (message["block"], message["point"]) == (0, [0, 1, 2])
    assert view.figure(0) is not None
    assert view.errors == []
    view.close()


def test_other_networks_cannot_read_a_recording(recorded) -> None:
    other = tiny_models()
    recording = studio.open_recording(recorded[0], models=other)
    with torch.no_grad():
        next(other.dit.parameters()).add_(1)
    with pytest.raises(ValueError, match="has other weights than what made the recording"):
        recording.look_back(2, 0, 0, 0)


def test_what_was_not_watched_of_a_recording_is_read_later(models, recorded, tmp_path) -> None:
    with open_session(models) as session:
        list(session.frames())
        path = session.record(tmp_path / "plain.studio")
    recording = studio.open_recording(path, models=models)
    assert recording.readings == ()
    watch = recording.reread(residue=True)
    assert [reading.block for reading in watch.readings] == list(range(6))
    for mine, other in zip(watch.readings, recorded[1], strict=True):
        np.testing.assert_array_equal(mine.mass, other.mass)
        assert [found.total for found in mine.residues] == pytest.approx([found.total for found in other.residues])
    assert watch.measures_residue


def test_a_take_without_a_watch_is_recorded_without_readings(models, tmp_path) -> None:
    with open_session(models) as session:
        with pytest.raises(ValueError, match="at least one block"):
            session.record(tmp_path / "empty.studio")
        list(session.frames())
        path = session.record(tmp_path / "plain.studio")
        with pytest.raises(FileExistsError):
            session.record(path)
        session.record(path, force=True)
        with pytest.raises(ValueError, match=r"must end in \.studio, got .*; name it film\.studio"):
            session.record(tmp_path / "film.mp4")
    assert studio.open_recording(path).readings == ()


def damaged(path, folder, change) -> Any:
    """A copy of a recording with some members changed; None takes one out."""
    copy = folder / "copy.studio"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: None if name == "head.json" else data, "no recording, or a damaged one"),
        (lambda name, data: b"{" if name == "head.json" else data, "no recording, or a damaged one"),
        (lambda name, data: b"[]" if name == "head.json" else data, "of version 1"),
        (lambda name, data: None if name == "frames/3" else data, r"lacks the frames of blocks \[3\]"),
        (lambda name, data: None if name == "readings/2.npz" else data, "no recording, or a damaged one"),
        (lambda name, data: b"{}" if name == "readings/2.json" else data, "no recording, or a damaged one"),
        (lambda name, data: b"junk" if name == "readings/2.npz" else data, "recording|pickle|magic"),
        (
            lambda name, data: json.dumps({**json.loads(data), "version": 9}) if name == "head.json" else data,
            "of version 1",
        ),
    ],
)
def test_a_damaged_recording_is_refused(recorded, tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        studio.open_recording(damaged(recorded[0], tmp_path, change))


def test_what_is_no_recording_is_refused(recorded, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no recording"):
        studio.open_recording(tmp_path / "nowhere.studio")
    (tmp_path / "text.studio").write_text("a red fox")
    with pytest.raises(ValueError, match="no recording, or a damaged one"):
        studio.open_recording(tmp_path / "text.studio")
    cut = tmp_path / "cut.studio"
    shutil.copy(recorded[0], cut)
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size // 2)
    with pytest.raises(ValueError, match="no recording, or a damaged one"):
        studio.open_recording(cut)


@pytest.mark.parametrize("policy", ["clear", "keep", "recache"])
def test_what_is_read_later_is_what_would_have_been_read(models, policy) -> None:
    with open_session(models, policy) as session, session.watch() as watching:
        watching.measure_residue()
        list(session.frames())
        wanted = watching.readings
    with open_session(models, policy) as session:
        list(session.frames())
        latents = session.latents
        with session.reread(residue=True) as watching:
            assert len(watching.readings) == 6
            for mine, other in zip(watching.readings, wanted, strict=True):
                same(mine, other)
        for one, other in zip(session.latents, latents, strict=True):
            assert torch.equal(one, other)


def test_a_fork_is_read_later_and_what_was_read_stays(models) -> None:
    with open_session(models) as session:
        list(session.frames())
        session.fork(3, prompt="a blue fox runs", policy="keep")
        with session.watch() as live:
            list(session.frames())
            read = {reading.block: reading for reading in live.readings}
            assert 0 < len(read) < 6
            with session.reread() as watching:
                assert [reading.block for reading in watching.readings] == list(range(6))
                for block, reading in read.items():
                    assert watching.at(block) is reading
                assert {reading.take for reading in watching.readings} == {session.take}
                assert watching.readings[0].prompt == PROMPT


def test_nothing_to_read_is_said(models) -> None:
    with open_session(models) as session, pytest.raises(ValueError, match="nothing to read yet"):
        session.reread()


def test_a_page_asks_for_what_was_missed(models) -> None:
    with open_session(models) as session:
        list(session.frames())
        view = CacheStrip(session)
        page = Browser(view)
        page.ready()
        assert page.wait(lambda: page.of("hello"))[0]["rereads"] is True
        assert page.of("cache") == []
        assert page.ask("reread")["error"] is None
        page.wait(lambda: len(page.of("cache")) == 6, 60)
        assert view.errors == []
        view.close()
