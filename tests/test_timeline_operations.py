"""Operations: random edits keep a timeline whole, undo returns the start, JSON carries all of it."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.timeline import OPERATIONS, Clip, History, Marker, Segment, Timeline, Transition, Weighted, copy
from studio.timeline.mixing import mix_at
from studio.timeline.operations import (
    Batch,
    Change,
    Duplicate,
    Insert,
    Mark,
    MoveMark,
    Operation,
    Paste,
    Put,
    Remove,
    Reorder,
    Replace,
    Resize,
    SetLength,
    SetSeed,
    Slide,
    Split,
    Unmark,
    from_dict,
)
from studio.timeline.past import first_change, keep_past

FOX, SEA, MOON = "a red fox", "the blue sea", "the moon"

prompts = st.sampled_from([FOX, SEA, MOON])
blocks = st.integers(-1, 40)
indices = st.lists(st.integers(-1, 6), min_size=0, max_size=3).map(tuple)
transitions = st.none() | st.builds(Transition, st.integers(1, 9), st.sampled_from(["linear", "spherical"]))
blends = st.lists(st.builds(Weighted, prompts, st.sampled_from([0.0, 0.25, 1.0, 3.0])), max_size=2).map(tuple)
segments = st.builds(
    Segment,
    prompts,
    st.integers(0, 40),
    policy=st.sampled_from([None, "recache", "keep", "clear"]),
    blend=blends,
    transition=transitions,
)
markers = st.builds(Marker, st.integers(0, 40), st.sampled_from(["", "here"]))
clips = st.builds(lambda prompt, count: Clip.of(prompt, count), prompts, st.integers(1, 5))
changes = st.fixed_dictionaries(
    {},
    optional={
        "prompt": prompts,
        "policy": st.sampled_from([None, "keep", "clear", "drop"]),
        "sink_policy": st.sampled_from([None, "rewrite"]),
        "transition": transitions,
        "blend": blends,
        "weight": st.sampled_from([1.0, 2.5, -1.0]),
        "colour": st.sampled_from([None, "#123", "red"]),
        "note": st.sampled_from([None, "a note"]),
    },
)
single = st.one_of(
    st.builds(Put, segments),
    st.builds(Insert, segments, st.integers(0, 5)),
    st.builds(Paste, blocks, clips, st.booleans()),
    st.builds(Remove, indices, st.booleans()),
    st.builds(Split, blocks),
    st.builds(Duplicate, indices),
    st.builds(Reorder, indices, st.integers(-1, 7)),
    st.builds(Slide, st.integers(-1, 6), blocks),
    st.builds(Resize, st.integers(-1, 6), st.sampled_from(["start", "end", "middle"]), blocks, st.booleans()),
    st.builds(Change, indices, changes),
    st.builds(Mark, markers),
    st.builds(Unmark, blocks),
    st.builds(MoveMark, blocks, blocks),
    st.builds(SetLength, st.none() | blocks),
    st.builds(SetSeed, st.integers(-1, 9)),
    st.builds(Replace, st.just(Timeline.of(MOON, FOX))),
)
operations = single | st.builds(Batch, st.lists(single, min_size=1, max_size=3).map(tuple))
lines = st.sampled_from(
    [Timeline.of(FOX), Timeline.of(FOX, SEA, MOON, length=21), Timeline.of(FOX, SEA, blocks=2, length=4, seed=3)]
)


def whole(line: Timeline) -> None:
    starts = [segment.start for segment in line.segments]
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert line.length is None or line.length > starts[-1]
    places = [marker.block for marker in line.markers]
    assert places == sorted(set(places))
    assert Timeline.from_json(line.to_json()) == line
    for block in (0, 3, starts[-1]):
        assert sum(line.weights_at(block).values()) == pytest.approx(1)


@given(lines, st.lists(operations, max_size=12))
def test_random_edits_can_be_undone_and_redone(line, edits):
    history, seen = History(line), [line]
    for edit in edits:
        try:
            history.apply(edit)
        except ValueError as error:
            assert len(str(error)) < 500
            assert history.timeline == seen[-1]
        else:
            if history.timeline != seen[-1]:
                seen.append(history.timeline)
        whole(history.timeline)
    assert len(history.done) == len(seen) - 1
    for expected in reversed(seen[:-1]):
        assert history.undo() == expected
    assert history.timeline == line
    for expected in seen[1:]:
        assert history.redo() == expected
    assert history.version == 3 * (len(seen) - 1)


@given(operations)
def test_operations_survive_json(operation):
    sent = json.loads(json.dumps(operation.to_dict()))
    try:
        back = from_dict(sent)
    except ValueError:
        assert isinstance(operation, Change | Batch)  # only changes are checked where they are read
        return
    assert back == operation
    assert back.to_dict() == operation.to_dict()


@given(lines, operations, st.integers(0, 20))
def test_the_past_can_always_be_kept(line, edit, begun):
    begun = begun if line.length is None else min(begun, line.length)
    try:
        after = edit.apply(line)
    except ValueError:
        return
    kept = keep_past(line, after, begun)
    whole(kept)
    assert first_change(line, kept, begun) is None
    if first_change(line, after, begun) is None:
        for block in range(begun, begun + 20):
            if kept.length is None or block < kept.length:
                assert kept.segment_at(block).parts == after.segment_at(block).parts


@given(lines, st.lists(operations, max_size=4), st.integers(1, 40), st.integers(0, 40))
def test_a_split_changes_no_block(line, edits, at, begun):
    for edit in edits:
        with contextlib.suppress(ValueError):
            line = edit.apply(line)
    try:
        after = Split(at).apply(line)
    except ValueError:
        return
    begun = begun if line.length is None else min(begun, line.length)
    assert first_change(line, after, begun) is None
    assert first_change(after, line, begun) is None
    last = 45 if line.length is None else line.length
    for block in range(last):
        assert mix_at(line, block) == mix_at(after, block)


@pytest.mark.parametrize(
    ("second", "first"),
    [
        (Segment(FOX, 3, policy="keep"), None),
        (Segment(FOX, 3, policy="keep", note="a note", colour="#123"), None),
        (Segment(FOX, 3), 3),
        (Segment(FOX, 3, policy="recache"), 3),
        (Segment(FOX, 3, policy="keep", sink_policy="rewrite"), 3),
        (Segment(FOX, 3, policy="keep", transition=Transition(2)), 3),
        (Segment(FOX, 3, policy="keep", blend=(Weighted(SEA, 1.0),)), 3),
        (Segment(SEA, 3, policy="keep"), 3),
    ],
)
def test_only_a_mere_cut_is_free_in_the_past(second, first):
    line = Timeline.of(FOX)
    assert first_change(line, line.put(second), 8) == first
    assert first_change(line, line.put(second), 3) is None


def test_a_cut_that_ends_a_transition_is_a_change():
    line = Timeline((Segment(FOX), Segment(SEA, 2, transition=Transition(4))))
    assert first_change(line, line.put(Segment(SEA, 4, policy="keep")), 8) == 4
    assert first_change(line, line.put(Segment(SEA, 6, policy="keep")), 8) is None


def test_every_operation_is_tried():
    tried = (Put, Insert, Paste, Remove, Split, Duplicate, Reorder, Slide, Resize, Change, Mark, Unmark, MoveMark)
    assert set(OPERATIONS.values()) == {*tried, SetLength, SetSeed, Replace, Batch}


def laid(line: Timeline) -> list[tuple[str, int]]:
    return [(segment.prompt, segment.start) for segment in line.segments]


THREE = Timeline.of(FOX, SEA, MOON, blocks=4, length=12)


@pytest.mark.parametrize(
    ("operation", "expected", "length"),
    [
        (Split(6), [(FOX, 0), (SEA, 4), (SEA, 6), (MOON, 8)], 12),
        (Insert(Segment(MOON, 6), 3), [(FOX, 0), (SEA, 4), (MOON, 6), (SEA, 9), (MOON, 11)], 15),
        (Insert(Segment(MOON, 12), 3), [(FOX, 0), (SEA, 4), (MOON, 8), (MOON, 12)], 15),
        (Paste(6, Clip.of(MOON, 3), over=True), [(FOX, 0), (SEA, 4), (MOON, 6), (MOON, 9)], 12),
        (Paste(10, Clip.of(SEA, 5), over=True), [(FOX, 0), (SEA, 4), (MOON, 8), (SEA, 10)], 15),
        (Remove((1,)), [(FOX, 0), (MOON, 8)], 12),
        (Remove((1,), ripple=True), [(FOX, 0), (MOON, 4)], 8),
        (Remove((0, 1), ripple=True), [(MOON, 0)], 4),
        (Duplicate((1,)), [(FOX, 0), (SEA, 4), (SEA, 8), (MOON, 12)], 16),
        (Duplicate((0, 1)), [(FOX, 0), (SEA, 4), (FOX, 8), (SEA, 12), (MOON, 16)], 20),
        (Reorder((2,), 0), [(MOON, 0), (FOX, 4), (SEA, 8)], 12),
        (Reorder((0,), 3), [(SEA, 0), (MOON, 4), (FOX, 8)], 12),
        (Slide(1, 6), [(FOX, 0), (SEA, 6), (MOON, 10)], 12),
        (Slide(2, 5), [(FOX, 0), (SEA, 4), (MOON, 5)], 9),
        (Resize(0, "end", 6), [(FOX, 0), (SEA, 6), (MOON, 8)], 12),
        (Resize(0, "end", 6, ripple=True), [(FOX, 0), (SEA, 6), (MOON, 10)], 14),
        (Resize(1, "start", 6, ripple=True), [(FOX, 0), (SEA, 4), (MOON, 6)], 10),
        (Resize(2, "end", 20), [(FOX, 0), (SEA, 4), (MOON, 8)], 20),
        (Change((0, 2), {"prompt": SEA}), [(SEA, 0), (SEA, 4), (SEA, 8)], 12),
    ],
)
def test_what_operations_do(operation, expected, length):
    after = operation.apply(THREE)
    assert (laid(after), after.length) == (expected, length)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Split(4), "a boundary already"),
        (Split(0), "from 1 to"),
        (Split(12), "before the end"),
        (Split(True), "whole number"),
        (Insert(Segment(FOX, 13), 3), "at most the length"),
        (Insert(Segment(FOX, 3), 0), "`blocks`"),
        (Paste(3, "clip"), "must be a Clip"),  # type: ignore[arg-type]
        (Paste(-1, Clip.of(FOX)), "`at`"),
        (Remove(()), "at least one segment"),
        (Remove((0, 0)), "names one twice"),
        (Remove((3,)), "there are 3"),
        (Remove((0, 1, 2)), "needs at least one segment"),
        (Remove((0, 1, 2), ripple=True), "none would be left"),
        (Remove((0,), ripple=1), "must be a bool"),  # type: ignore[arg-type]
        (Slide(0, 3), "starts at block 0"),
        (Slide(1, 8), "between its neighbours"),
        (Slide(1, 0), "between its neighbours"),
        (Resize(0, "end", 0), "neighbours"),
        (Resize(1, "end", 4, ripple=True), "`to`"),
        (Resize(1, "start", 8, ripple=True), "at least one block"),
        (Resize(1, "middle", 4), "`edge` must be one of"),
        (Resize(1, None, 4), "`edge`"),  # type: ignore[arg-type]
        (Reorder((1,), 4), "`to`"),
        (Change((0,), {}), "at least one of prompt"),
        (Change((0,), {"start": 3}), "unknown key 'start'"),
        (Change((0,), {"promt": FOX}), 'did you mean "prompt"'),
        (Change((0,), {"prompt": " "}), "must not be empty"),
        (Change((0,), {"policy": "drop"}), "`policy`"),
        (Change((0,), {"weight": 0}), "above 0 for some prompt"),
        (Change((0,), {"transition": 3}), "must be a Transition"),
        (Unmark(3), "no marker at block 3"),
        (MoveMark(3, 4), "no marker at block 3"),
        (Mark("here"), "must be a Marker"),  # type: ignore[arg-type]
        (SetLength(8), "more than the start of the last segment"),
        (SetSeed(-1), "`seed`"),
        (Replace("x"), "must be a Timeline"),  # type: ignore[arg-type]
        (Batch(()), "1 to 1000 operations"),
        (Batch((Split(2), Split(2))), "a boundary already"),
    ],
)
def test_operations_that_make_no_sense(operation, words):
    with pytest.raises(ValueError, match=words):
        operation.apply(THREE)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "must name an operation"),
        ("split", "must name an operation"),
        ({}, "must name an operation, got None"),
        ({"op": 3}, "got 3"),
        ({"op": "spilt"}, 'did you mean "split"'),
        ({"op": "split"}, "add at"),
        ({"op": "split", "at": 3, "to": 4}, "unknown key 'to'"),
        ({"op": "put", "segment": {"start_block": 3}}, "must have a prompt"),
        ({"op": "put", "segment": []}, "`segment` must be an object"),
        ({"op": "mark", "marker": {"name": "x"}}, "add `block`"),
        ({"op": "paste", "at": 3, "clip": {}}, "studio-clip"),
        ({"op": "remove", "segments": 3}, "must be a list"),
        ({"op": "change", "segments": [0], "changes": {"transition": {}}}, "add `blocks`"),
        ({"op": "change", "segments": [0], "changes": {"blend": [{"prompt": ""}]}}, "must not be empty"),
        ({"op": "batch", "operations": [{"op": "x"}]}, "must name an operation"),
        ({"op": "replace", "timeline": {}}, "`format`"),
    ],
)
def test_bad_messages(item, words):
    with pytest.raises(ValueError, match=words):
        from_dict(item)


def test_markers_move_with_what_they_mark():
    line = Mark(Marker(9, "end")).apply(Mark(Marker(2, "fox")).apply(THREE))
    assert [m.block for m in Insert(Segment(SEA, 4), 3).apply(line).markers] == [2, 12]
    assert [m.block for m in Remove((1,), ripple=True).apply(line).markers] == [2, 5]
    assert [m.block for m in Remove((0,), ripple=True).apply(line).markers] == [5]
    assert [m.block for m in Resize(0, "end", 2, ripple=True).apply(line).markers] == [2, 7]
    moved = MoveMark(9, 11).apply(line)
    assert moved.markers == (Marker(2, "fox"), Marker(11, "end"))
    with pytest.raises(ValueError, match="already"):
        MoveMark(9, 2).apply(line)
    assert Unmark(9).apply(line).markers == (Marker(2, "fox"),)


def test_clips_carry_segments_between_studios():
    clip = copy(THREE, (2, 0))
    assert [(s.prompt, s.start) for s in clip.segments] == [(FOX, 0), (MOON, 4)]
    back = Clip.from_json(clip.to_json())
    assert back == clip
    assert laid(Paste(0, back).apply(Timeline.of(SEA)))[:3] == [(FOX, 0), (MOON, 4), (SEA, 8)]
    assert [s.prompt for s in Clip.from_json(f"{FOX}\n{SEA}\n").segments] == [FOX, SEA]
    assert copy(Timeline.of(FOX), (0,)).length == 7
    for bad, words in (("{", "not a clip"), ("{}", "studio-clip"), (" ", "at least one prompt"), (3, "must be text")):
        with pytest.raises(ValueError, match=words):
            Clip.from_json(bad)  # type: ignore[arg-type]


def test_a_split_inside_a_transition_is_refused():
    line = THREE.edit(1, transition=Transition(3))
    with pytest.raises(ValueError, match="ends at block 7, got 6"):
        Split(6).apply(line)
    halves = Split(7).apply(line)
    assert [halves.mix_at(block) for block in range(12)] == [line.mix_at(block) for block in range(12)]


def test_the_base_class_is_no_operation():
    with pytest.raises(NotImplementedError):
        Operation().apply(THREE)
    with pytest.raises(ValueError, match="must be an Operation"):
        History(THREE).apply("split")  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 400, 3000])
def test_a_batch_within_a_batch_is_refused_however_deep(depth):
    item = {"op": "split", "at": 1}
    nested = Split(1)
    for _ in range(depth + 1):
        item, nested = {"op": "batch", "operations": [item]}, Batch((nested,))
    with pytest.raises(ValueError, match="`operations` must hold no batch"):
        from_dict(item)
    with pytest.raises(ValueError, match="`operations` must hold no batch"):
        nested.apply(Timeline.of(FOX, length=5))


@pytest.mark.parametrize(
    "operation",
    [
        Split(np.int64(3)),
        Insert(Segment(SEA, np.int64(3)), np.int64(2)),
        Paste(np.int64(2), Clip.of(SEA, np.int64(4))),
        Remove((np.int64(0),)),
        MoveMark(np.int64(1), np.int64(2)),
        Resize(np.int64(0), "end", np.int64(5)),
        SetLength(np.int64(9)),
        Batch((SetSeed(np.int64(9)), SetLength(None))),
    ],
)
def test_whole_numbers_of_numpy_are_written_as_ints(operation):
    assert from_dict(json.loads(json.dumps(operation.to_dict()))) == operation
