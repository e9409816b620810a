from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio import formats
from studio.timeline import (
    MAX_BLOCKS,
    MAX_PROMPT,
    MAX_SEED,
    Clip,
    Marker,
    Segment,
    Timeline,
    Transition,
    Weighted,
    check_prompt,
)

FOX, SEA, MOON = "a red fox runs in the snow", "a whale swims in the sea", "the moon rises"


def two(**options) -> Timeline:
    return Timeline((Segment(FOX), Segment(SEA, 8, policy="keep", note="later")), **options)


# Prompts


@pytest.mark.parametrize(
    "prompt",
    [FOX, "  spaces around  ", "🦊❄️ 👩‍👩‍👧‍👦", "ثعلب أحمر يجري", "שועל אדום", "<b>bold</b>", "line\nbreak\tand tab",
     "x" * MAX_PROMPT, "0"],
)  # fmt: skip
def test_prompts_of_any_language_pass_unchanged(prompt):
    assert check_prompt(prompt) is prompt
    line = Timeline((Segment(prompt),))
    assert Timeline.from_json(line.to_json()) == line


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "must not be empty"),
        ("   \n\t ", "must not be empty"),
        ("x" * 10_000, "at most 2000 characters.*10000 characters.*shorten it"),
        ("a\x00b", r"U\+0000 at character 1.*remove it"),
        ("bell\x07", r"U\+0007"),
        ("escape\x1b[31m", r"U\+001B"),
        ("c1\x85", r"U\+0085"),
        ("half \ud800 pair", r"U\+D800"),
        (None, "must be a string, got None"),
        (3, "must be a string, got 3 .int."),
        (b"bytes", "must be a string"),
        (["a"], "must be a string"),
    ],
)
def test_bad_prompts_are_named_with_the_remedy(prompt, words):
    with pytest.raises(ValueError, match=words) as caught:
        Segment(prompt)
    assert len(str(caught.value)) < 400


# Segments and timelines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": -1}, "use 0"),
        ({"start": 1.5}, "whole number.*got 1.5; use 1"),
        ({"start": -1.5}, "got -1.5$"),
        ({"start": float("nan")}, "got nan"),
        ({"start": float("inf")}, "got inf"),
        ({"start": True}, "got True"),
        ({"start": "3"}, "got '3'"),
        ({"start": MAX_BLOCKS + 1}, "from 0 to"),
        ({"policy": "recahce"}, 'did you mean "recache"'),
        ({"policy": 3}, "must be one of"),
        ({"sink_policy": "clear"}, '"keep", "rewrite"'),
        ({"colour": "red"}, "#e69f00"),
        ({"colour": "#12"}, "#e69f00"),
        ({"colour": "#123;background:url(x)"}, "#e69f00"),
        ({"note": 3}, "`note` must be a string"),
        ({"note": "\x00"}, r"U\+0000"),
    ],
)
def test_bad_segments(options, words):
    with pytest.raises(ValueError, match=words):
        Segment(FOX, **options)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ((), "at least one segment"),
        ((Segment(FOX, 1),), "first segment must start at block 0, got 1"),
        ((Segment(FOX), Segment(SEA)), "segments 0 and 1 overlap.*block 1 or later"),
        ((Segment(FOX), Segment(SEA, 5), Segment(MOON, 4)), "segments 1 and 2 are not in order"),
        ((Segment(FOX), SEA), "must be a Segment"),
        (FOX, "sequence of Segment"),
        (None, "sequence of Segment"),
    ],
)
def test_bad_orders(segments, words):
    with pytest.raises(ValueError, match=words):
        Timeline(segments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, "use None for no end"),
        ({"length": 8}, "more than the start of the last segment, block 8, got 8; use 9"),
        ({"length": 2.0}, "whole number"),
        ({"length": float("inf")}, "got inf"),
        ({"seed": -1}, "use 0"),
        ({"seed": MAX_SEED + 1}, "got 9007199254740992"),
        ({"seed": "7"}, "got '7'"),
        ({"seed": None}, "got None"),
        ({"fps": 0}, "above 0"),
        ({"fps": float("nan")}, "got nan"),
        ({"block_latent_frames": 0}, "use 1"),
    ],
)
def test_bad_timelines(options, words):
    with pytest.raises(ValueError, match=words):
        two(**options)


def test_a_timeline_is_a_value():
    line = two(seed=3)
    assert line == two(seed=3)
    assert hash(line) == hash(two(seed=3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        line.seed = 4  # type: ignore[misc]
    assert Timeline([Segment(FOX)]).segments == (Segment(FOX),)  # type: ignore[arg-type]


def test_reading():
    line = two(length=20)
    assert [line.index_at(block) for block in (0, 7, 8, 19, 500)] == [0, 0, 1, 1, 1]
    assert line.segment_at(8).prompt == SEA
    assert line.starting_at(8) is line.segments[1]
    assert line.starting_at(9) is None
    assert line.switches() == line.segments[1:]
    assert (line.end_of(0), line.end_of(1), two().end_of(1)) == (8, 20, None)
    with pytest.raises(ValueError, match="block"):
        line.index_at(-1)


def test_times_follow_the_blocks():
    line = two()
    assert [line.start_frame(block) for block in range(4)] == [0, 9, 21, 33]
    assert line.start_seconds(4) == 45 / 16
    assert [line.block_at_or_after(s) for s in (0, 0.01, 9 / 16, 0.57, 45 / 16)] == [0, 1, 1, 2, 4]
    for bad in (-1, float("nan"), float("inf"), None, "2"):
        with pytest.raises(ValueError, match="finite number of seconds"):
            line.block_at_or_after(bad)  # type: ignore[arg-type]


# Editing


def test_edits_return_new_timelines():
    line = two()
    assert line.append(MOON, 12).segments[2] == Segment(MOON, 12)
    assert line.append(MOON).segments[2].start == 15
    assert line.edit(1, prompt=MOON, colour="#112233").segments[1] == Segment(
        MOON, 8, policy="keep", colour="#112233", note="later"
    )
    assert line.edit(1, start=9, prompt=MOON).segments[1].start == 9
    assert line.move(1, 3).segments[1].start == 3
    assert line.remove(0).segments == (dataclasses.replace(line.segments[1], start=0),)
    assert line.remove(1).segments == line.segments[:1]
    assert line.put(Segment(MOON, 4)).segments[1].prompt == MOON
    assert line.put(Segment(MOON, 8)).segments == (line.segments[0], Segment(MOON, 8))
    assert line.with_seed(5).seed == 5
    assert line.with_length(9).length == 9
    assert line == two()


def test_a_length_grows_with_what_is_added():
    line = two(length=10)
    assert line.append(MOON).segments[2].start == 10
    assert line.append(MOON).length == 17
    assert line.append(MOON, 30).length == 37
    assert line.append(MOON, 9).length == 10
    assert line.put(Segment(MOON, 12)).length == 19


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda line: line.append(MOON, 8), "use 9 or more"),
        (lambda line: line.append("", 9), "must not be empty"),
        (lambda line: line.append(MOON, 9, polcy="keep"), None),
        (lambda line: line.edit(2, prompt=MOON), "there are 2, counted from 0"),
        (lambda line: line.edit(-1, prompt=MOON), "there are 2"),
        (lambda line: line.edit(0, promt=MOON), 'did you mean "prompt"'),
        (lambda line: line.edit(0, prompt=""), "must not be empty"),
        (lambda line: line.edit(0, start=2), "first segment starts at block 0"),
        (lambda line: line.move(1, 0), "between its neighbours"),
        (lambda line: line.remove(1).remove(0), "needs at least one segment"),
        (lambda line: line.with_length(3), "use 9 or more"),
        (lambda line: Timeline.of(), "at least one segment"),
        (lambda line: Timeline.of(FOX, SEA, blocks=0), "`blocks`"),
    ],
)
def test_edits_that_make_no_sense(edit, words):
    with pytest.raises((ValueError, TypeError), match=words):
        edit(two())


prompts = st.text(min_size=1, max_size=40).filter(
    lambda text: text.strip() and not any(0x7F <= ord(c) < 0xA0 or (ord(c) < 32 and c not in "\n\r\t") for c in text)
)


@st.composite
def timelines(draw) -> Timeline:
    starts = sorted(draw(st.sets(st.integers(1, 200), max_size=6)))
    segments = [
        Segment(
            draw(prompts),
            start,
            policy=draw(st.sampled_from([None, "recache", "keep", "clear"])),
            sink_policy=draw(st.sampled_from([None, "keep", "rewrite"])),
            colour=draw(st.sampled_from([None, "#e69f00", "#ABC"])),
            note=draw(st.sampled_from(["", "a note"])),
        )
        for start in [0, *starts]
    ]
    length = draw(st.none() | st.integers(segments[-1].start + 1, 300))
    seed = draw(st.integers(0, MAX_SEED))
    return Timeline(
        tuple(segments),
        length,
        seed,
        fps=draw(st.sampled_from([16, 24, 12.5])),
        block_latent_frames=draw(st.integers(1, 5)),
    )


@given(timelines())
def test_json_round_trip(line):
    assert Timeline.from_json(line.to_json()) == line
    assert Timeline.from_json(line.to_json().encode()) == line
    assert Timeline.from_json(json.loads(line.to_json())) == line


@given(timelines())
def test_seconds_mean_the_block_that_starts_there(line):
    for block in range(40):
        assert line.block_at_or_after(line.start_seconds(block)) == block
        if block:
            assert line.block_at_or_after(line.start_seconds(block) - 0.001) == block
            assert line.block_at_or_after(line.start_seconds(block) + 0.001) == block + 1


EDITS = [
    lambda line, i, block: line.append(MOON, block),
    lambda line, i, block: line.remove(i),
    lambda line, i, block: line.move(i, block),
    lambda line, i, block: line.put(Segment(SEA, block)),
    lambda line, i, block: line.edit(i, prompt=FOX),
]


@given(timelines(), st.lists(st.tuples(st.sampled_from(EDITS), st.integers(-1, 9), st.integers(-2, 210)), max_size=12))
def test_random_edits_keep_a_timeline_whole(line, edits):
    for edit, i, block in edits:
        with contextlib.suppress(ValueError):
            line = edit(line, i, block)
        starts = [segment.start for segment in line.segments]
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert line.length is None or line.length > starts[-1]
        assert all(line.index_at(segment.start) == i for i, segment in enumerate(line.segments))
        assert Timeline.from_json(line.to_json()) == line


@given(timelines(), st.sets(st.integers(0, 320), max_size=5), st.integers(1, 320))
def test_a_cut_keeps_what_comes_before_it(line, places, length):
    line = dataclasses.replace(line, markers=tuple(Marker(block) for block in sorted(places)))
    cut = line.cut(length)
    assert cut.length == length
    assert cut.segments == tuple(segment for segment in line.segments if segment.start < length)
    assert [marker.block for marker in cut.markers] == [block for block in sorted(places) if block < length]
    assert cut.cut(length) == cut
    assert all(cut.index_at(block) == line.index_at(block) for block in range(length))


# JSON


def document(*segments, **head):
    return {"format": "studio-timeline", "version": 1, "segments": list(segments), **head}


def at(start, prompt=FOX, **more):
    return {"start_s": start, "prompt": prompt, **more}


def test_seconds_in_a_file_wait_for_the_next_block():
    line = Timeline.from_json(document(at(0, end_s=2.5), at(2.5, SEA, end_s=5), seed=7))
    assert line == Timeline((Segment(FOX), Segment(SEA, 4)), 7, 7)
    assert Timeline.from_json(document(at(0), length_s=5.0)).length == 7


def test_blocks_and_seconds_may_mix():
    line = Timeline.from_json(document({"start_block": 0, "prompt": FOX}, at(2.5, SEA), length_blocks=9, fps=16))
    assert [segment.start for segment in line.segments] == [0, 4]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (document(at(0, end_s=3), at(2, SEA)), "overlap: 0 ends at 3 s and 1 starts at 2 s; set end_s of 0 to 2"),
        (document(at(0, end_s=1), at(2, SEA)), "gap from 1 s to 2 s"),
        (document(at(0), at(0, SEA)), "overlap"),
        (document(at(0), at(1.9, SEA), at(2.0, MOON)), "overlap: both take effect at block 3.*start 2 at 2.812 s"),
        (document(at(0), at(3, SEA), at(2, MOON)), "in order, but 2 starts at 2 s and 1 at 3 s; sort them"),
        (document(at(-1)), "from 0 up, got -1"),
        (document(at(1)), "first segment must start at block 0"),
        (document(at(0), at(float("nan"), SEA)), "got nan"),
        (document(at(0), at(float("inf"), SEA)), "got inf"),
        (document(at(0), at(1e300, SEA)), "at most"),
        (document(at(0), at("2", SEA)), "got '2'"),
        (document(at(0), at(True, SEA)), "got True"),
        (document(at(0, end_s=0)), "must be after its start 0, got 0"),
        (document(at(0, end_s=-2)), "from 0 up, got -2"),
        (document(at(0, end_s=2), length_blocks=2), "ends at block 3 but the length is 2"),
        (document({"start_block": 0, "end_block": 4, "prompt": FOX}, {"start_block": 3, "prompt": SEA}), "overlap"),
        (document({"start_block": 0, "end_block": 4, "prompt": FOX}, at(5, SEA)), "ends at block 4 but 1 starts at"),
        (document({"start_block": 1.5, "prompt": FOX}), "got 1.5"),
        (document({"start_block": 0, "start_s": 0, "prompt": FOX}), "both `start_block` and `start_s`"),
        (document({"prompt": FOX}), "must say when it starts"),
        (document({"start_block": 0}), "must have a prompt"),
        (document(at(0, "")), r"segments\[0\]: `prompt` must not be empty"),
        (document(at(0, "x" * 10_000)), r"segments\[0\]: `prompt` must have at most 2000"),
        (document(at(0, promt=3)), "unknown key 'promt'; did you mean \"prompt\""),
        (document(at(0, policy="drop")), r"segments\[0\]: `policy` must be one of"),
        (document(at(0), sed=3), 'did you mean "seed"'),
        (document(at(0), seed=1.5), "got 1.5"),
        (document(at(0), seed=-1), "got -1"),
        (document(at(0), fps=0), "`fps`"),
        (document(at(0), fps=float("inf")), "got inf"),
        (document(at(0), block_latent_frames=0), "`block_latent_frames`"),
        (document(at(0), length_blocks=float("nan")), "got nan"),
        (document(at(0), version=3), "`version` must be 1 or 2, got 3; update"),
        (document(at(0), version=True), "`version` must be 1 or 2, got True"),
        ({**document(at(0)), "format": "other"}, "got 'other'"),
        ({}, "`format` must be"),
        (document(), "at least one segment"),
        (document(FOX), "must be an object"),
        ({**document(), "segments": {"0": FOX}}, "must be a list"),
        ("[1, 2]", "must be a JSON object"),
        ("", "not JSON at line 1"),
        ('{"format": ', "not JSON at line 1, column 12"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": 1, "seed": 2}', "stands twice"),
        (b"\xff\xfe\x00", "UTF-8|not JSON"),
        (None, "JSON text or an object, got None"),
    ],
)
def test_bad_documents(source, words):
    with pytest.raises(ValueError, match=words) as caught:
        Timeline.from_json(source)
    assert len(str(caught.value)) < 500


# Files


def test_files(tmp_path):
    line = two(length=12, seed=9)
    path = tmp_path / "line.json"
    line.save(path)
    assert Timeline.load(path) == line
    assert list(tmp_path.iterdir()) == [path]
    text = tmp_path / "line.txt"
    line.save(text)
    assert text.read_text(encoding="utf-8") == f"{FOX}\n{SEA}\n"
    assert [segment.start for segment in Timeline.load(text).segments] == [0, 7]


def test_text_reports_what_it_loses():
    assert formats.lost_in_text(Timeline.of(FOX, SEA)) == ()
    assert formats.lost_in_text(two(length=12, seed=9)) == (
        "the starts of the segments",
        "the policies",
        "the notes",
        "the length of 12 blocks",
        "the seed 9",
    )
    with pytest.raises(ValueError, match="one prompt a line"):
        formats.to_text(Timeline.of("two\nlines"))


@pytest.mark.parametrize(
    "prompt", ["  a fox", "a fox ", "a fox\n", "\ufeffa fox", "\ufeff", "a fox\u2028", "\u2003a fox"]
)
def test_text_tells_what_it_drops_of_prompts(prompt):
    lost = formats.dumps(Timeline.of(prompt, SEA), "txt").lost
    assert lost == ("white space, line separators and byte order marks at the ends of prompts",)
    assert formats.lost_in_text(Timeline.of("a\u2028b")) == ()  # refused as a whole, see `to_text`


@given(st.lists(st.text(st.sampled_from("ab \ufeff\u2028\u0009\n"), min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_holds_the_prompts_or_says_that_it_does_not(prompts):
    with contextlib.suppress(ValueError):
        line = Timeline.of(*prompts)
        written = formats.dumps(line, "txt")
        if not written.lost:
            assert formats.from_text(written.text) == line


def test_text_in_any_dress():
    assert [s.prompt for s in Timeline.from_text(f"\ufeff\r\n {FOX} \r\n\r\n{SEA}").segments] == [FOX, SEA]
    for bad, words in (
        ("", "at least one prompt"),
        (" \n ", "at least one prompt"),
        ("a\x00", r"U\+0000"),
        (3, "string"),
    ):
        with pytest.raises(ValueError, match=words):
            Timeline.from_text(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [10**308, 10**400, 10**6000], ids=["e308", "e400", "e6000"])
def test_whole_numbers_beyond_floats_are_no_times(seconds):
    with pytest.raises(ValueError, match="`seconds` must be"):
        two().block_at_or_after(seconds)


def test_whole_numbers_of_numpy_are_kept_as_ints():
    line = Timeline(two().segments, np.int64(12), np.int64(3), block_latent_frames=np.int64(3))
    assert Timeline.from_json(line.to_json()) == two(length=12, seed=3)
    clip = Clip.of(FOX, np.int64(3))
    assert Clip.from_json(clip.to_json()) == clip


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no timeline"):
        Timeline.load(tmp_path / "none.json")
    for name, content, words in [
        ("a.yaml", b"", "a .json or .txt file"),
        ("b.json", b"{", "b.json: not JSON"),
        ("c.txt", b"caf\xe9", "c.txt must be UTF-8 text, got byte 0xe9"),
        ("d.json", b"\x00" * 10, "d.json: not JSON"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            Timeline.load(path)
    (tmp_path / "e.json").mkdir()
    with pytest.raises(ValueError, match="is it a timeline"):
        Timeline.load(tmp_path / "e.json")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "line.txt"
    Timeline.of(FOX).save(path)
    with pytest.raises(ValueError):
        Timeline.of("two\nlines").save(path)
    assert path.read_text() == FOX + "\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_timeline_reads_as_a_list_of_what_happens_when():
    timeline = Timeline.of("a fox", "a cat", blocks=7, length=12).put(
        Segment("rain", 10, policy="keep", blend=(Weighted("snow", 3),), transition=Transition(2))
    )
    assert str(dataclasses.replace(timeline, markers=(Marker(7, "here"),))).splitlines() == [
        "Timeline of 0:08.81, 12 blocks, 16 frames/s, seed 0",
        "  0:00.00  block  0  a fox",
        "  0:05.06  block  7  a cat",
        "  0:05.06  block  7  marker 'here'",
        "  0:07.31  block 10  25% rain + 75% snow (keep, over 2 blocks, linear)",
    ]
    assert str(Timeline.of("a fox")).startswith("Timeline without an end, 16 frames/s, seed 0\n")
    assert eval(repr(timeline)) == timeline


def test_a_blend_of_which_one_prompt_is_in_force_shows_that_one():
    assert str(Segment("a cat", weight=0, blend=(Weighted("a dog", 1),))) == "a dog"
    assert str(Segment("a cat", weight=0, blend=(Weighted("a dog", 2),), policy="keep")) == "a dog (keep)"
    assert str(Segment("a cat", blend=(Weighted("a dog", 0),))) == "a cat"
    assert str(Segment("a cat", blend=(Weighted("a dog", 1),))) == "50% a cat + 50% a dog"
