"""Undo and redo of what was made already: to the first edit and back, whatever is done about the past."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from studio.live import Session
from studio.timeline import History, PastEdit, Segment, Timeline
from studio.timeline.operations import Put
from tests.live.doubles import tiny_models, wait_for

FOX, SEA, SNOW, OWL = "a red fox runs", "the blue sea", "a rabbit in the snow", "an owl"


def make(session: Session, blocks: int) -> None:
    with session.frames(session.takes.current.blocks) as frames:
        assert len(list(itertools.islice(frames, blocks))) == blocks
    session.pause()
    wait_for(lambda: session.state == "paused")


def prompts(session: Session) -> list[tuple[int, str]]:
    return [(segment.start, segment.prompt) for segment in session.timeline.segments]


@pytest.fixture
def session() -> Iterator[Session]:
    """A session whose two switches have begun."""
    with Session(tiny_models(), timeline=Timeline.of(FOX)) as session:
        session.switch(SEA, at=2)
        session.switch(SNOW, at=4)
        make(session, 6)
        yield session


def test_undo_that_keeps_the_past_reaches_the_first_edit_and_redo_the_last(session):
    begun = session.takes.current.blocks
    made = [(0, FOX), (2, SEA), (4, SNOW)]
    history = session._core.take.history
    with pytest.raises(PastEdit):
        session.undo()
    session.undo(past="keep")
    assert prompts(session) == [*made, (begun, SEA)]
    assert [len(history.done), len(history.undone)] == [1, 1]
    session.undo(past="keep")
    assert prompts(session) == [*made, (begun, FOX)]
    with pytest.raises(RuntimeError, match="nothing to undo"):
        session.undo(past="keep")
    session.redo(past="keep")
    assert prompts(session) == [*made, (begun, SEA)]
    session.redo(past="keep")
    assert prompts(session) == made
    with pytest.raises(RuntimeError, match="nothing to redo"):
        session.redo(past="keep")
    assert len(session.takes) == 1
    make(session, 1)


def test_an_edit_made_after_the_past_was_kept_is_undone_before_the_rest(session):
    session.undo(past="keep")
    kept = session.timeline
    session.edit(Put(Segment(OWL, 20)))
    assert not session.editor.can_redo
    session.undo()
    assert session.timeline == kept
    session.undo(past="keep")
    assert prompts(session)[-1][1] == FOX
    assert not session.editor.can_undo


def test_a_step_of_which_nothing_is_left_to_change_is_gone_over():
    with Session(tiny_models(), timeline=Timeline.of(FOX)) as session:
        session.switch(SNOW, at=4)
        session.switch(SEA, at=2)  # until the other one: all of it is over when it is undone
        make(session, 6)
        line, told = session.timeline, []
        session.subscribe(lambda event: told.append(event.kind))
        version = session.editor.version
        session.undo(past="keep")
        assert (session.timeline, session.editor.version) == (line, version + 1)
        assert "timeline" in told  # what undo and redo go over has changed
        session.undo(past="keep")
        assert prompts(session)[-1][1] == FOX
        session.redo(past="keep")
        session.redo()
        assert session.timeline == line
        assert not session.editor.can_redo


def test_undo_that_forks_reaches_the_first_edit_and_redo_goes_back_to_the_takes(session):
    last = session.timeline
    session.undo(past="fork")
    assert (prompts(session), session.take, session.takes.current.forked_at) == ([(0, FOX), (2, SEA)], 1, 4)
    assert session.editor.describe()["history"]["redo"] == "fork"
    session.undo(past="fork")
    assert (prompts(session), session.take, session.takes.current.forked_at) == ([(0, FOX)], 2, 2)
    with pytest.raises(RuntimeError, match="nothing to undo"):
        session.undo(past="fork")
    session.redo()
    assert session.take == 1
    session.redo()
    assert (session.take, session.timeline, len(session.takes)) == (0, last, 3)
    with pytest.raises(RuntimeError, match="nothing to redo"):
        session.redo()


def test_an_edit_of_a_fork_that_undo_made_gives_up_the_way_back(session):
    session.undo(past="fork")
    session.edit(Put(Segment(OWL, 9)))
    assert not session.editor.can_redo
    session.undo()
    assert session.editor.describe()["history"]["redo"] == "put"
    session.redo()
    assert (session.take, prompts(session)[-1]) == (1, (9, OWL))


def test_without_the_take_that_had_the_edit_a_fork_redoes_it_itself(session):
    last = session.timeline
    session.undo(past="fork")
    session.takes.remove(0)
    session.redo()
    assert (session.take, session.timeline) == (1, last)


def test_redo_that_forks_goes_on_in_the_fork(session):
    last = session.timeline
    session.undo(past="regenerate")
    session.undo(past="regenerate")
    make(session, 6)
    session.redo(past="fork")
    assert (prompts(session), session.takes.current.forked_at) == ([(0, FOX), (2, SEA)], 2)
    make(session, 4)
    session.redo(past="fork")
    assert (session.timeline, session.takes.current.forked_at) == (last, 4)
    assert not session.editor.can_redo


def test_a_history_takes_in_what_was_kept():
    history = History(Timeline.of(FOX))
    history.apply(Put(Segment(SEA, 2)))
    after, kept = history.timeline, Timeline.of(OWL)
    assert history.undo(kept) == history.timeline == kept
    assert (len(history.done), len(history.undone)) == (0, 1)
    assert history.redo() == after
    history.undo()
    assert history.redo(kept) == kept
    assert history.undo_target() == Timeline.of(FOX)
