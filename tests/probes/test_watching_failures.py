"""Probes that fail under a session: the film goes on, whoever watches is told, and watching can begin again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.live import probed
from studio.probes import AttentionProbe, ResidueFollower, WordTracer
from tests.live.doubles import worded_models
from tests.probes.test_watching import NEXT, PROMPT, hooks, open_session, play


def broken(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("method", ["expect", "begin", "made", "note"])
def test_a_residue_that_fails_ends_the_residue_alone(monkeypatch, method) -> None:
    with open_session() as session, session.watch() as watching:
        told: list[str] = []
        watching.warn(told.append)
        watching.measure_residue()
        if method == "note":
            watching.measure_residue(False)
        monkeypatch.setattr(ResidueFollower, method, broken)
        assert len(play(session)) == 8
        assert session.error is None
        assert watching.active
        assert [reading.block for reading in watching.readings] == list(range(8))
        assert not watching.measures_residue
        assert told == ["the residue is no longer measured: OutOfMemoryError: CUDA out of memory"]
        assert watching.trouble == told[0]
        # It can be tried again.
        monkeypatch.undo()
        watching.measure_residue()
        assert watching.trouble is None
        session.restart()
        play(session)
        assert watching.readings[5].residues


@pytest.mark.parametrize(
    ("kind", "method"), [(AttentionProbe, "begin"), (AttentionProbe, "end"), (WordTracer, "end"), (WordTracer, "trace")]
)
def test_a_probe_that_fails_ends_the_watch_and_says_why(monkeypatch, kind, method) -> None:
    with open_session() as plain:
        play(plain)
        wanted = plain.latents
    with open_session() as session:
        watching = session.watch()
        told: list[str] = []
        end = watching.warn(told.append)
        monkeypatch.setattr(kind, method, broken)
        play(session)
        assert all(torch.equal(a, b) for a, b in zip(session.latents, wanted, strict=True))
        assert told == ["the cache is no longer watched: OutOfMemoryError: CUDA out of memory"]
        assert not watching.active and watching.trouble == told[0]
        assert hooks(session) == 0
        end()
        end()
        monkeypatch.undo()
        with session.watch() as again:
            session.restart()
            play(session)
            assert len(again.readings) == 8


def test_a_tap_that_fails_in_the_middle_of_a_pass_ends_the_watch_alone(monkeypatch) -> None:
    monkeypatch.setattr("studio.probes.attention.pool_over_slots", broken)
    with open_session() as session, session.watch() as watching:
        assert len(play(session)) == 8
        assert session.error is None and not watching.active


def test_an_alarm_that_fails_stops_nothing(monkeypatch) -> None:
    monkeypatch.setattr(AttentionProbe, "end", broken)
    with open_session() as session, session.watch() as watching:
        watching.warn(broken)
        assert len(play(session)) == 8
        assert session.error is None


def take_with_two_switches(session_at, models, turn_on):
    from studio.live import Session
    from studio.timeline import Segment, Timeline

    line = Timeline(
        (
            Segment(PROMPT),
            Segment(NEXT, 3, policy="recache", sink_policy="keep"),
            Segment("a blue fox", 6, policy="keep"),
        ),
        length=8,
    )
    with Session(models, timeline=line) as session, session.watch() as watching:
        if turn_on == 0:
            watching.measure_residue()
        frames = session.frames()
        for made, _ in enumerate(frames):
            if made + 1 == turn_on:
                watching.measure_residue()
        return watching.readings


def test_switches_are_noted_while_the_residue_is_off() -> None:
    """The recache at block 3 was not measured; what block 6 on is measured against was recached there all the same."""
    models = worded_models(window=9)
    wanted = take_with_two_switches(0, models, 0)
    found = take_with_two_switches(0, models, 4)
    assert [reading.block for reading in found if reading.residues] == [6, 7]
    for mine, other in zip(found[6:], wanted[6:], strict=True):
        for one, two in zip(mine.residues, other.residues, strict=True):
            np.testing.assert_array_equal(one.keys, two.keys)
            np.testing.assert_array_equal(one.values, two.values)


def test_a_third_prompt_can_take_the_residue_above_one() -> None:
    """Told so in the texts: 1 is the distance between two prompts, and a third one may lie further away."""
    from studio.probes import ResidueMeter
    from tests.contracts import tiny

    dit, cache = tiny.dit(), tiny.cache()
    near, far = tiny.text(1), tiny.text(2)
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=near, new=near + 0.05 * far)
    from studio.sampler import commit

    with torch.no_grad():
        commit(dit, cache, tiny.latents(3), far, tiny.SAMPLER)
    meter.commit(tiny.latents(3))
    assert meter.measure("made").total > 1


@pytest.mark.filterwarnings("ignore::studio.probes.CacheFault")
@pytest.mark.parametrize("positions", ["absolute", "window"])
def test_positions_past_the_table_are_told_in_a_session(monkeypatch, positions) -> None:
    monkeypatch.setattr(probed, "POSITIONS", 12)
    models = worded_models(positions=positions)
    with open_session(models=models) as session, session.watch() as watching:
        play(session)
        faults = [(fault.kind, fault.block) for fault in watching.warnings]
    assert faults == ([("position_past_table", 4)] if positions == "absolute" else [])


def test_the_pictures_of_the_slots_outlive_the_budget() -> None:
    """The oldest readings go first, but the sink's own stay while it is in the cache."""
    with open_session("keep", blocks=12) as session, session.watch() as watching:
        next(session.frames())
        size = watching.readings[0].nbytes
        session._core.observer._budget = 5 * size  # type: ignore[union-attr]
        play(session)
        kept = {reading.block for reading in watching.readings}
        slots = {slot.frame // 3 for slot in watching.readings[-1].slots if slot.frame is not None}
        assert slots <= kept and 0 in slots and 1 not in kept
        assert sum(reading.nbytes for reading in watching.readings) <= 5 * size + size


def test_a_pinned_head_has_its_own_gaze() -> None:
    with open_session(blocks=4, at=3) as session, session.watch() as watching:
        frames = session.frames()
        next(frames)
        watching.look(1, 0, 2)
        for _ in frames:
            pass
        reading = watching.readings[-1]
        assert reading.gaze is not None and reading.gazes is not None
        np.testing.assert_allclose(reading.gazes.mean(axis=(0, 1)), reading.gaze, atol=1e-6)
        np.testing.assert_array_equal(reading.look(1, 0), reading.gazes[1, 0])
        np.testing.assert_array_equal(reading.look(), reading.gaze)
        with pytest.raises(ValueError, match="`layer` must be one of"):
            reading.look(9)


def test_a_gaze_too_large_to_keep_by_head_is_kept_as_a_mean(monkeypatch) -> None:
    monkeypatch.setattr("studio.live.blockreading.GAZES", 10)
    with open_session(blocks=4, at=3) as session, session.watch() as watching:
        frames = session.frames()
        next(frames)
        watching.look(1, 0, 2)
        for _ in frames:
            pass
        reading = watching.readings[-1]
        assert reading.gaze is not None and reading.gazes is None and reading.look(0, 0) is None


def test_where_a_block_looks_as_a_whole() -> None:
    with open_session() as session, session.watch(samples=4096) as watching:
        play(session)
        for reading in watching.readings:
            assert reading.positions is not None
            np.testing.assert_allclose(np.nansum(reading.positions), 1, atol=1e-5)
            # By slot it is the mass of all heads.
            np.testing.assert_allclose(
                np.nansum(reading.positions, axis=(1, 2)), np.nan_to_num(reading.mass.mean(axis=(0, 1))), atol=1e-5
            )
            assert len(reading.position_rows()) == reading.positions.size


def test_words_of_the_old_prompt_are_traced_in_a_session() -> None:
    with open_session("keep") as session, session.watch() as watching:
        play(session)
        shares = [reading.trace.share(0) for reading in watching.readings]  # type: ignore[union-attr]
        assert shares[4] > 0
        assert shares[5] > shares[6] > shares[7] > 0
        assert watching.readings[4].trace.share(1) == 0  # type: ignore[union-attr]
        assert {row["word"] for row in watching.trace_rows() if row["block"] == 6} >= {*PROMPT.split()[:2], "rabbit"}
        assert all(reading.trace.unheard == 0 for reading in watching.readings)  # type: ignore[union-attr]


def test_the_time_of_the_probes_is_known_by_part() -> None:
    with open_session() as session, session.watch() as watching:
        play(session)
        for reading in watching.readings:
            assert set(reading.spent) == {"denoise", "commit"} | ({"recache"} if reading.policy == "recache" else set())
            assert reading.seconds == pytest.approx(sum(reading.spent.values()))
            assert all(seconds > 0 for seconds in reading.spent.values())


def test_a_point_of_a_past_block_is_read_as_it_would_have_been_live() -> None:
    models = worded_models()
    with open_session(models=models) as session, session.watch() as watching:
        frames = session.frames()
        next(frames)
        watching.look(2, 1, 0)
        for _ in frames:
            pass
        wanted = {reading.block: reading for reading in watching.readings if reading.gaze is not None}
    assert set(wanted) >= {3, 5, 7}
    with open_session(models=models) as session, session.watch() as watching:
        play(session)
        heard: list[int] = []
        watching.subscribe(lambda reading: heard.append(reading.block))
        for block in (5, 3, 7):
            before = watching.at(block)
            found = session.look_back(block, 2, 1, 0)
            np.testing.assert_array_equal(found.gaze, wanted[block].gaze)
            held = watching.at(block)
            assert held is not None and held.point == found.point
            np.testing.assert_array_equal(held.gazes, wanted[block].gazes)
            assert before is not None and held.mass is before.mass
            np.testing.assert_allclose(
                [word.share for word in found.trace.words],  # type: ignore[union-attr]
                [word.share for word in wanted[block].trace.words],  # type: ignore[union-attr]
            )
        assert heard == [5, 3, 7]
        # Another point takes its place.
        session.look_back(5, 0, 0, 0)
        assert (watching.at(5).point.frame, watching.at(5).point.row) == (0, 0)  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="the point must lie within 3 frames"):
            session.look_back(5, 0, 99, 0)
        with pytest.raises(ValueError, match=r"`block` must lie in 0\.\.7, got 8"):
            session.look_back(8, 0, 0, 0)


def test_a_point_of_a_fork_is_read_from_where_its_cache_was_filled() -> None:
    with open_session() as session:
        play(session)
        session.fork(3, prompt="a blue fox runs", policy="keep")
        with session.watch() as watching:
            watching.subscribe(lambda _: None)
            play(session)
            live = watching.readings[-1]
            found = session.look_back(live.block, 0, 0, 0)
            np.testing.assert_array_equal(found.mass, live.mass)
            assert found.slots == live.slots
