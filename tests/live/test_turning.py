"""What was read of a block is given as read of every take that has it, and of no other; what a closed session says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import studio
from studio.live import Session, replay
from studio.live.lab import Lab, LabSettings
from studio.live.log import TakeLog
from studio.live.watching import FAULTS, Observer
from studio.probes import CacheFault, CacheWarning
from studio.timeline import Marker, Segment, Timeline
from studio.timeline.operations import Change
from studio.widgets import CacheStrip, Studio
from tests.live.doubles import wait_for, worded_models
from tests.widgets.recorder import Browser

FOX, SEA = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture(scope="module")
def models() -> Any:
    return worded_models()


def run(session: Session, blocks: int) -> None:
    """Make blocks until there are so many."""
    while (before := session.stats.generated_blocks) < blocks:
        session.step()
        wait_for(
            lambda before=before: session.stats.generated_blocks > before and session.state in ("paused", "finished")
        )


def read(session: Session) -> list[tuple[int, int, str]]:
    return [(reading.take, reading.block, reading.prompt) for reading in session.readings]


@pytest.fixture
def forked(models) -> Any:
    """Two takes of three blocks that were both watched; the second is the current one."""
    with Session(models, timeline=Timeline.of(FOX)) as session, session.watch() as watching:
        run(session, 3)
        session.fork(0, prompt=SEA)
        assert read(session) == []
        run(session, 3)
        assert read(session) == [(1, block, SEA) for block in range(3)]
        yield session, watching


def test_another_take_is_chosen_and_its_readings_are_its_own(forked, tmp_path) -> None:
    session, watching = forked
    session.takes.choose(0)
    assert read(session) == [(0, block, FOX) for block in range(3)]
    assert watching.readings == session.readings
    assert watching.latest is session.readings[-1]
    assert watching.warnings == ()
    recording = studio.open_recording(session.record(tmp_path / "take.studio"))
    assert recording.log[0].prompt == FOX
    assert [(reading.take, reading.prompt) for reading in recording.readings] == [(0, FOX)] * 3
    run(session, 4)
    assert read(session) == [(0, block, FOX) for block in range(4)]
    recording = studio.open_recording(session.record(tmp_path / "take.studio", force=True))
    assert [(reading.take, reading.prompt) for reading in recording.readings] == [(0, FOX)] * 4
    assert session.look_back(1, 0, 1, 1).take == 0


def test_of_each_take_what_was_read_is_kept(forked) -> None:
    session, _ = forked
    before = session.readings
    session.takes.choose(0)
    run(session, 5)
    assert read(session) == [(0, block, FOX) for block in range(5)]
    session.takes.choose(1)
    assert session.readings == before
    session.reread()
    assert session.readings == before


def test_what_was_read_of_shared_blocks_holds_for_a_fork(models) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session, session.watch() as watching:
        run(session, 4)
        masses = [reading.mass for reading in session.readings]
        heard: list[tuple[int, int]] = []
        watching.subscribe(lambda reading: heard.append((reading.take, reading.block)))
        session.fork(2, prompt=SEA)
        assert read(session) == [(1, 0, FOX), (1, 1, FOX)]
        run(session, 4)
        assert heard == [(1, 2), (1, 3)]
        assert read(session) == [(1, 0, FOX), (1, 1, FOX), (1, 2, SEA), (1, 3, SEA)]
        assert [watching.at(block).mass is masses[block] for block in range(4)] == [True, True, False, False]
        # A fork of the fork, whose own first take is gone, has what three takes made.
        session.takes.remove(0)
        session.fork(3, prompt=FOX)
        run(session, 4)
        assert read(session) == [(2, 0, FOX), (2, 1, FOX), (2, 2, SEA), (2, 3, FOX)]
        assert session.look_back(1, 0, 1, 1).take == 2
        assert session.readings[1].point is not None
        session.takes.choose(1)
        assert read(session) == [(1, 0, FOX), (1, 1, FOX), (1, 2, SEA), (1, 3, SEA)]


def test_of_very_many_faults_the_newest_are_kept(forked) -> None:
    session, watching = forked
    observer = session._core.observer
    for block in range(FAULTS + 5):
        with pytest.warns(CacheFault):
            observer._tell(1, CacheWarning(kind="zero_slot", block=block, layer=0, slot=0, message="m"))
    assert len(watching.warnings) == FAULTS
    assert watching.warnings[-1].block == FAULTS + 4


def test_what_other_takes_have_goes_first(forked) -> None:
    session, _ = forked
    observer = session._core.observer
    observer._budget = 4 * session.readings[0].nbytes
    session.takes.choose(0)
    run(session, 4)
    assert [block for _, block, _ in read(session)] == [0, 1, 2, 3]
    session.takes.choose(1)
    assert session.readings == ()
    assert observer._bytes == sum(reading.nbytes for reading in observer._readings) <= observer._budget


def test_a_page_is_told_what_was_read_of_the_take_it_turns_to(models) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session:
        player = CacheStrip(session)
        page = Browser(player)
        page.ready()
        page.wait(lambda: page.of("hello"))
        run(session, 3)
        page.wait(lambda: len(page.of("cache")) == 3)
        session.fork(2, prompt=SEA)
        run(session, 4)
        page.wait(lambda: len(page.of("cache")) == 5)
        # Two blocks are the same in both: the page has their readings, and only what is new is sent.
        told = [
            (m["take"], m.get("block"), m.get("shared")) for m in page.messages if m["type"] in ("cache", "restart")
        ]
        assert told[3:] == [(1, None, 2), (1, 2, None), (1, 3, None)]
        session.takes.choose(0)
        page.wait(lambda: len(page.of("cache")) == 6)
        assert [(m["former"], m["shared"]) for m in page.of("restart")] == [(0, 2), (1, 2)]
        assert (page.of("cache")[-1]["take"], page.of("cache")[-1]["block"]) == (0, 2)
        player.close()


def test_coming_back_without_having_made_anything_keeps_what_was_read(forked) -> None:
    session, _ = forked
    before = session.readings
    session.takes.choose(0)
    session.takes.choose(1)
    assert session.readings == before


def test_an_undo_over_a_fork_and_a_start_from_a_picture_show_their_own(models) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session, session.watch():
        run(session, 2)
        session.edit(Change((0,), {"prompt": SEA}), past="fork")
        run(session, 2)
        assert read(session) == [(1, 0, SEA), (1, 1, SEA)]
        session.undo()
        assert session.take == 0
        assert read(session) == [(0, 0, FOX), (0, 1, FOX)]
        session.redo()
        run(session, 3)
        session.start_from(np.zeros((16, 24, 3), np.uint8))
        assert read(session) == []


def test_a_removed_take_leaves_its_number_to_nobody(forked) -> None:
    session, _ = forked
    session.takes.choose(0)
    session.takes.remove(1)
    session.fork(0, prompt=SEA)
    assert session.take == 2
    assert read(session) == []


@pytest.mark.parametrize("back", [False, True])
def test_a_block_that_was_left_before_it_was_announced_is_read_once(models, back) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session:
        left: list[int] = []

        def judge(frames: np.ndarray, texts: Any) -> list[float]:
            if session.stats.generated_blocks == 1 and not left:
                left.append(session.fork(0, prompt=SEA).number)
                if back:
                    session.takes.choose(0)
            return [0.0] * len(texts)

        session.judge = judge
        with session.watch():
            run(session, 1)
            session.step()
            wait_for(lambda: left and session.state == "paused")
            run(session, 3)
            number, prompt = (0, FOX) if back else (1, SEA)
            assert read(session) == [(number, block, prompt) for block in range(3)]


def test_a_fault_belongs_to_its_take() -> None:
    now = 0
    observer = Observer(gone=lambda _: None, current=lambda: now)
    fault = CacheWarning(kind="not_finite", block=1, layer=None, slot=None, message="it is no number")
    with pytest.warns(match="no number"):
        observer._tell(0, fault)
    assert observer.faults == (fault,)
    now = 1
    assert observer.faults == ()


# Recordings


@pytest.fixture
def early(models, tmp_path) -> Any:
    """A recording that was made before the second prompt and a marker began."""
    line = Timeline((Segment(FOX), Segment(SEA, 20)), 30, markers=(Marker(1, "here"), Marker(21, "there")))
    with Session(models, timeline=line) as session:
        run(session, 3)
        return studio.open_recording(session.record(tmp_path / "early.studio"))


def test_a_recording_ends_before_the_prompts_that_had_not_begun(early) -> None:
    timeline = early.timeline
    assert (timeline.length, [segment.prompt for segment in timeline.segments]) == (3, [FOX])
    assert [marker.name for marker in timeline.markers] == ["here"]


def test_a_page_reports_to_a_recording(early) -> None:
    view = Studio(early)
    page = Browser(view)
    page.ready()
    page.wait(lambda: page.of("hello"))
    page.say("played", frame=3, take=0, hidden=False, dropped=2)
    page.say("ping", id=7)
    assert page.wait(lambda: page.of("pong"))[0]["id"] == 7
    assert view.playhead == 3
    assert view.errors == []
    view.close()


def test_a_ping_is_answered_whatever_the_source_says(early, monkeypatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the source broke")

    view = Studio(early)
    page = Browser(view)
    page.ready()
    page.wait(lambda: page.of("hello"))
    monkeypatch.setattr(studio.live.recording.RecordedConsumer, "played", broken)
    page.say("ping", id=8)
    assert page.wait(lambda: page.of("pong"))[0]["id"] == 8
    assert "the source broke" in view.errors[-1]
    view.close()


# A closed session


def test_what_is_gone_with_a_closed_session_is_said(models, tmp_path) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 1)
        loop = session.loop(0, 2)
        next(loop)
    for act in (
        lambda: session.record(tmp_path / "a.studio"),
        lambda: session.save_latents(tmp_path / "a.safetensors"),
        lambda: session.latents,
        lambda: session.frame(0),
        lambda: session.clip(0, 2),
        lambda: session.loop(0, 2),
        lambda: next(loop),
        lambda: session.reread(),
        lambda: session.look_back(0, 0, 0, 0),
    ):
        with pytest.raises(RuntimeError, match=r"the session is closed; open a new one with `studio\.open`"):
            act()
    assert len(session.log) == 1
    assert list(tmp_path.iterdir()) == []


# How values show themselves


def test_values_take_a_line(models) -> None:
    line = Timeline((Segment(FOX), Segment(SEA, 1, policy="keep")))
    with Session(models, timeline=line) as session, session.watch():
        run(session, 2)
        log = session.log
        assert [repr(reading) for reading in session.readings] == [
            "<BlockReading 0 of take 0: 9 slots, 0 warnings>",
            "<BlockReading 1 of take 0: 9 slots, keep, 0 warnings>",
        ]
        assert repr(session.editor) == "<Editor of take 0: 0 edits, 0 undone>"
        assert repr(log.origin).startswith(f"<Origin tiny, weights {log.origin.weights[:8]}, float32: CPU, ")
    assert repr(replay(log, models)) == "<Replay: 2 blocks, the same bit for bit>"
    other = TakeLog([log[0], TakeLog.from_json(log.to_json().replace(log[1].latents, ""))[1]], log.origin)
    assert repr(replay(other, models)) == "<Replay: 2 blocks, 1 not known>"
    settings = LabSettings(first=FOX, then=SEA, at=1, blocks=2, policies=("keep", ("recache", "keep")))
    with Lab(models, settings) as lab:
        lab.wait(60)
        assert [repr(run) for run in lab.runs] == [
            "<LabRun keep: 2 blocks, the switch at block 1>",
            "<LabRun recache, sink: keep: 2 blocks, the switch at block 1>",
        ]
        assert [repr(block) for block in lab.blocks[:2]] == [
            "<LabBlock 0 of all runs: 9 frames>",
            "<LabBlock 1 of run 0: 12 frames>",
        ]


# Damaged logs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head["blocks"][0].update(mix={"parts": [[]]}), r"blocks\[0\]: `parts` must hold pairs"),
        (lambda head: head["blocks"][0].update(mix={"parts": [5]}), r"blocks\[0\]: `parts` must hold pairs"),
        (lambda head: head["blocks"][0].update(mix={"parts": [["a", "b"]]}), r"blocks\[0\]: `weight`"),
        (lambda head: head["blocks"][0].update(requested_frame="x"), "`requested_frame` must be a whole number"),
        (lambda head: head["blocks"][0].update(resumed=1), "`resumed` must be true or false, got 1"),
        (lambda head: head["blocks"][0].update(latents=5), "`latents` must be a string, got 5"),
        (lambda head: head["origin"].update(model=5), "`origin` must have a string as its model, got 5"),
        (lambda head: head["origin"].update(dtype=5), "`origin` must have a string as its dtype, got 5"),
        (lambda head: head["origin"].update(config="x"), "`origin` must have an object as its config, got 'x'"),
    ],
)
def test_a_damaged_log_says_what_is_wrong(models, change, message) -> None:
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 1)
        head = json.loads(session.log.to_json())
    assert TakeLog.from_json(json.dumps(head)) == session.log
    change(head)
    with pytest.raises(ValueError, match=message):
        TakeLog.from_json(json.dumps(head))
