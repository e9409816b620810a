"""Timelines in and out of the studio's JSON, LongLive's JSON lines and Scope's JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio import cli, formats
from studio.timeline import Marker, Segment, Timeline, Transition, Weighted

FOX, SEA, MOON = "a red fox", "the blue sea", "the moon"
RICH = Timeline(
    (
        Segment(FOX, note="first", colour="#123456"),
        Segment(SEA, 5, weight=3, blend=(Weighted(MOON, 1.0),), transition=Transition(2, "spherical"), policy="keep"),
        Segment(MOON, 9, transition=Transition(1), sink_policy="rewrite"),
    ),
    14,
    7,
    markers=(Marker(5, "sea", "#fff"), Marker(20)),
)

prompts = st.sampled_from([FOX, SEA, MOON, "ein Häschen 🐇", "שלום"])
blends = st.lists(st.builds(Weighted, prompts, st.sampled_from([0.25, 1.0, 4.0])), max_size=3).map(tuple)
transitions = st.none() | st.builds(Transition, st.integers(1, 9), st.sampled_from(["linear", "spherical"]))


@st.composite
def lines(draw, rich: bool = True, starts: st.SearchStrategy | None = None):
    places = [0, *sorted(draw(st.sets(st.integers(1, 60), max_size=5)))]
    more = {"blend": blends, "transition": transitions} if rich else {}
    segments = tuple(
        Segment(draw(prompts), start, **{name: draw(value) for name, value in more.items()}) for start in places
    )
    return Timeline(segments, draw(st.integers(61, 90)), draw(st.integers(0, 99)))


# The studio's own


def check(schema: dict, item: object, root: dict) -> list[str]:
    """Look for what a document breaks of a schema, as far as the schema uses the language."""
    if "$ref" in schema:
        return check(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], item, root)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    if "const" in schema and item != schema["const"]:
        return [f"{item} is not {schema['const']}"]
    if "enum" in schema and item not in schema["enum"]:
        return [f"{item} is none of {schema['enum']}"]
    if "type" in schema and (isinstance(item, bool) or not isinstance(item, kinds[schema["type"]])):
        return [f"{item} is no {schema['type']}"]
    if isinstance(item, dict):
        found = [f"{key} is missing" for key in schema.get("required", []) if key not in item]
        if "oneOf" in schema:
            found += [] if sum(not check(part, item, root) for part in schema["oneOf"]) == 1 else ["not one of"]
        if schema.get("additionalProperties") is False:
            found += [f"{key} is unknown" for key in item if key not in schema["properties"]]
        known = schema.get("properties", {})
        return found + [text for key in item if key in known for text in check(known[key], item[key], root)]
    if isinstance(item, list):
        return [text for entry in item for text in check(schema.get("items", {}), entry, root)]
    if isinstance(item, int | float) and not isinstance(item, bool):
        return [f"{item} is too small"] if item < schema.get("minimum", item) else []
    return []


@given(lines())
def test_the_studios_json_round_trips_and_fits_its_schema(line):
    text = line.to_json()
    assert Timeline.from_json(text) == line
    assert check(formats.schema(), json.loads(text), formats.schema()) == []


def test_the_schema_knows_every_key():
    schema = formats.schema()
    rich = json.loads(RICH.to_json())
    assert Timeline.from_json(rich) == RICH
    assert check(schema, rich, schema) == []
    for spoil in (
        lambda item: item.update(version=3),
        lambda item: item.update(sed=1),
        lambda item: item["segments"][0].update(start_s=0),
        lambda item: item["segments"][0].pop("prompt"),
        lambda item: item["segments"][1]["transition"].update(kind="cubic"),
        lambda item: item["markers"][0].update(block=-1),
    ):
        bad = json.loads(RICH.to_json())
        spoil(bad)
        assert check(schema, bad, schema)
        with pytest.raises(ValueError):
            Timeline.from_json(bad)


def test_version_1_is_read_and_has_no_blends():
    old = {"format": "studio-timeline", "version": 1, "segments": [{"start_block": 0, "prompt": FOX}]}
    assert Timeline.from_json(old) == Timeline.of(FOX)
    old["segments"][0]["weight"] = 2
    with pytest.raises(ValueError, match="unknown key 'weight'"):
        Timeline.from_json(old)


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ({"blend": 3}, "`blend` must be a list"),
        ({"blend": [3]}, r"`blend\[0\]` must be an object"),
        ({"blend": [{"weight": 1}]}, "must be a string, got None"),
        ({"blend": [{"prompt": FOX, "wieght": 1}]}, 'did you mean "weight"'),
        ({"weight": -1}, "`weight` must be a number from 0"),
        ({"weight": 0}, "above 0"),
        ({"transition": 3}, "`transition` must be an object"),
        ({"transition": {}}, "add `blocks`"),
        ({"transition": {"blocks": 0}}, "from 1 to"),
        ({"transition": {"blocks": 2, "kind": "cubic"}}, "must be one of"),
    ],
)
def test_bad_segments(segment, words):
    item = {"format": "studio-timeline", "version": 2, "segments": [{"start_block": 0, "prompt": FOX, **segment}]}
    with pytest.raises(ValueError, match=words):
        Timeline.from_json(item)


# Kinds


@pytest.mark.parametrize(
    ("kind", "remedy"), [("josn", 'did you mean "json"'), ("yaml", 'leave it out for "json"'), (3, "got 3")]
)
def test_a_mistyped_kind_is_named_with_the_nearest(kind, remedy):
    with pytest.raises(ValueError, match=f'`kind` must be one of "json", .*{remedy}'):
        formats.dumps(RICH, kind)
    with pytest.raises(ValueError, match=f'`kind` must be one of "json", .*{remedy}'):
        formats.loads(RICH.to_json(), kind)


# LongLive


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\v", "\r"])
def test_longlive_ends_lines_at_line_feeds_alone(separator):
    prompt = f"{FOX}{separator}{SEA}"
    if separator in "\u2028\u2029":  # a prompt may hold these
        written = formats.dumps(Timeline.of(prompt, MOON), "longlive").text
        found = formats.loads(written, "longlive")
        assert [segment.prompt for segment in found.timeline.segments] == [prompt, MOON]
    lines = json.dumps({"prompts": [FOX], "of": prompt}, ensure_ascii=False) + "\r\n" + json.dumps({"prompts": [SEA]})
    assert formats.loads(lines, "longlive", video=1).timeline.segments[0].prompt == SEA


@given(lines(rich=False))
def test_longlive_round_trips_with_its_switches(line):
    written = formats.dumps(line, "longlive")
    switches = [int(part) for part in formats.switch_indices(line).split(",") if part]
    back = formats.loads(written.text, "longlive", switches=switches)
    assert [(s.prompt, s.start) for s in back.timeline.segments] == [(s.prompt, s.start) for s in line.segments]
    # How long the video is stands in no such file: that it was assumed is told.
    assert len(back.notes) == 1
    assert "how long the video is" in back.notes[0]


def test_longlive_reports_what_it_cannot_hold():
    written = formats.dumps(RICH, "longlive")
    assert json.loads(written.text) == {"prompts": [FOX, SEA, MOON]}
    assert written.text.count("\n") == 1
    assert written.lost == (
        'the switches; set switch_frame_indices: "15,27" in the configuration',
        "the length; set num_output_frames: 42 in the configuration",
        "the blends of prompts, of which the first is kept",
        "the transitions",
        "the policies",
        "the sink policies",
        "the colours",
        "the notes",
        "the markers",
        "the seed 7",
    )


def test_longlive_says_what_it_takes_for_granted():
    text = f'{{"prompts": ["{FOX}", "{SEA}"]}}\n\n{{"prompts": ["{MOON}", "{SEA}"]}}\n'
    found = formats.loads(text, "longlive", video=1)
    assert [(s.prompt, s.start) for s in found.timeline.segments] == [(MOON, 0), (SEA, 14)]
    assert found.timeline.length == 80
    assert "video 1 of 2" in found.notes[0]
    assert "every 40 latent frames" in found.notes[1]
    assert found.notes[2] == "the switch at latent frame 40 waits for the next block, latent frame 42"
    assert found.notes[3] == (
        "the file does not say how long the video is; 240 latent frames, LongLive's default, were taken"
    )


@pytest.mark.parametrize(
    ("count", "switches", "length"),
    [(6, None, 80), (7, None, 87), (8, None, 101), (2, [237], 80), (2, [238], 87), (2, [600], 207)],
)
def test_the_last_prompt_of_longlive_has_time(count, switches, length):
    text = json.dumps({"prompts": [f"{FOX} {i}" for i in range(count)]})
    found = formats.loads(text, "longlive", switches=switches)
    assert found.timeline.length == length
    assert "how long the video is" in found.notes[-1]
    assert ("about five seconds past the last switch" in found.notes[-1]) == (length != 80)
    assert f"{length * 3} latent frames" in found.notes[-1]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "at least one line"),
        ("[]", {}, "line 1: a line must be"),
        ('{"prompts": []}', {}, "line 1: a line must be"),
        ('{"prompts": "a"}', {}, "line 1: a line must be"),
        ('{"prompts": [3]}', {}, "line 1: `prompt` must be a string"),
        ('{"prompts": ["a"]}\n{"prompts": ["a", "b"]}', {}, "line 2: every line must hold 1 prompts, got 2"),
        ('{"prompts": ["a"]}\n{', {}, "line 2: not JSON"),
        ('{"prompts": ["a", "b"]}', {"switches": []}, "must hold 1 latent frames"),
        ('{"prompts": ["a", "b", "c"]}', {"switches": [6, 5]}, "must rise by whole blocks"),
        ('{"prompts": ["a", "b"]}', {"switches": [0]}, "from 1 to"),
        ('{"prompts": ["a", "b"]}', {"switches": [1.5]}, "got 1.5"),
        ('{"prompts": ["a"]}', {"video": 1}, "`video`"),
    ],
)
def test_bad_longlive(text, options, words):
    with pytest.raises(ValueError, match=words):
        formats.loads(text, "longlive", **options)
    with pytest.raises(ValueError, match='belong to "longlive"'):
        formats.loads(FOX, "txt", switches=[3])


# Scope


@given(lines())
def test_scope_round_trips(line):
    back = formats.loads(formats.dumps(line, "scope").text, "scope")
    assert back.notes == ()
    assert (back.timeline.length, back.timeline.seed) == (line.length, line.seed)
    for ours, theirs in zip(line.segments, back.timeline.segments, strict=True):
        assert (ours.prompt, ours.start, ours.transition) == (theirs.prompt, theirs.start, theirs.transition)
        assert dict(ours.parts) == pytest.approx(dict(theirs.parts))


def test_scope_reports_what_it_cannot_hold():
    written = formats.dumps(RICH, "scope")
    assert written.lost == ("the policies", "the sink policies", "the colours", "the notes", "the markers")
    item = json.loads(written.text)
    assert item["prompts"][1]["prompts"] == [{"text": SEA, "weight": 100}, {"text": MOON, "weight": 100 / 3}]
    assert (item["prompts"][1]["transitionSteps"], item["prompts"][1]["temporalInterpolationMethod"]) == (2, "slerp")
    assert "without an end" in formats.dumps(Timeline.of(FOX), "scope").lost[0]


def entry(start, end, text=FOX, **more):
    return {"startTime": start, "endTime": end, "prompts": [{"text": text, "weight": 100}], **more}


def test_scope_is_recognised_and_every_change_is_told():
    item = {
        "prompts": [
            entry(0.5, 3.1234, id="x"),
            entry(3.1234, 3.2, SEA),
            entry(3.2, 5, MOON, transitionSteps=4, camera=1),
            entry(6, 6, SEA),
            entry(6, 9, SEA),
        ],
        "settings": {"pipelineId": "longlive", "seed": 42, "denoisingSteps": [1000, 750]},
        "version": "2.1",
        "exportedAt": "then",
    }
    found = formats.loads(json.dumps(item))
    assert found.kind == "scope"
    assert [(s.prompt, s.start) for s in found.timeline.segments] == [(FOX, 0), (MOON, 5), (SEA, 9)]
    assert found.timeline.segments[1].transition == Transition(4)
    assert (found.timeline.seed, found.timeline.length) == (42, 13)
    assert found.notes == (
        "the settings denoisingSteps, pipelineId were passed over; the model's own hold",
        "`prompts[2].camera` was passed over",
        "`prompts[3]` lasts no time and was passed over",
        "nothing is said before 0.5 s; the first prompt starts at 0",
        "the switch at 3.1234 s waits for block 5, 3.5625 s",
        "the switch at 3.2 s waits for block 5, 3.5625 s",
        "'the blue sea' is shorter than a block and was passed over",
        "the gap from 5 s to 6 s is filled by the prompt before it",
        "the switch at 6 s waits for block 9, 6.5625 s",
        "the end at 9 s waits for block 13, 9.5625 s",
    )


def test_the_film_of_scope_ends_with_the_prompt_that_ends_last():
    found = formats.loads(json.dumps({"prompts": [entry(0, 10), entry(2.0625, 4, SEA)]}))
    assert [segment.start for segment in found.timeline.segments] == [0, 3]
    assert found.timeline.length == 14
    assert found.notes == (
        "the prompt that ends at 10 s is cut by the one that starts at 2.0625 s",
        "the last prompt, which ends at 4 s, goes on to 10 s, where one before it ends",
        "the end at 10 s waits for block 14, 10.3125 s",
    )
    endless = formats.loads(json.dumps({"prompts": [entry(0, 10), entry(2.0625, None, SEA)]}))
    assert endless.timeline.length is None


@given(lines())
def test_what_was_written_for_scope_moves_nothing_when_read(line):
    assert formats.loads(formats.dumps(line, "scope").text).notes == ()


def test_names_of_a_hostile_file_of_scope_are_shown_harmless_and_short():
    item = {"prompts": [{**entry(0, 5.0625), "\x1b[2J": 1}], "settings": {"x" * 500: 1, "\ud800": 1, "steps": 4}}
    found = formats.loads(json.dumps(item))
    assert len(found.notes) == 2
    for note in found.notes:
        assert note.isprintable() and len(note) < 200
        note.encode()
    assert "steps" in found.notes[0] and r"\x1b[2J" in found.notes[1]


@pytest.mark.parametrize("time", [1e25, 10**400, 750_001], ids=["e25", "e400", "one too many"])
def test_a_time_past_the_longest_video_is_named(time):
    native = {"format": "studio-timeline", "version": 2, "segments": [{"start_s": 0, "prompt": FOX}]}
    with pytest.raises(ValueError, match=r"segments\[1\]\.start_s` must be (at most 750000|a finite number)"):
        formats.from_json({**native, "segments": [*native["segments"], {"start_s": time, "prompt": SEA}]})
    with pytest.raises(ValueError, match=r"length_s` must be (at most 750000|a finite number)"):
        formats.from_json({**native, "length_s": time})
    for item in ([entry(0, 1), entry(time, None)], [entry(0, time)]):
        with pytest.raises(ValueError, match=r"Time` must be (at most 750000|a finite number)"):
            formats.loads(json.dumps({"prompts": item}))


def test_a_workflow_of_scope():
    item = {
        "format": "scope-workflow",
        "pipelines": [{}],
        "timeline": {
            "entries": [
                {"start_time": 0, "end_time": 3, "prompts": [{"text": FOX, "weight": 60}, {"text": SEA, "weight": 40}]},
                {"start_time": 3, "end_time": 6, "prompts": [{"text": MOON}], "transition_steps": 2,
                 "temporal_interpolation_method": "slerp"},
            ]
        },
    }  # fmt: skip
    found = formats.loads(json.dumps(item))
    assert dict(found.timeline.segments[0].parts) == pytest.approx({FOX: 0.6, SEA: 0.4})
    assert found.timeline.segments[1].transition == Transition(2, "spherical")
    assert "the workflow's pipelines were passed over" in found.notes


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({}, "must have a list `prompts`"),
        ([], "must have a list `prompts`"),
        ({"prompts": []}, "at least one prompt that lasts"),
        ({"prompts": [3]}, r"`prompts\[0\]` must be an object"),
        ({"prompts": [{"endTime": 3}]}, "add `startTime`"),
        ({"prompts": [entry(-1, 3)]}, "from 0 up, got -1"),
        ({"prompts": [entry(0, float("nan"))]}, "got nan"),
        ({"prompts": [entry(3, 1)]}, "must be after its start 3, got 1"),
        ({"prompts": [entry(0, 3, prompts=[])]}, "at least one prompt"),
        ({"prompts": [entry(0, 3, prompts=[3])]}, "must be an object"),
        ({"prompts": [entry(0, 3, prompts=[{"text": FOX, "weight": -1}])]}, "`weight`"),
        ({"prompts": [entry(0, 3, prompts=[{"text": FOX, "weight": 0}])], "x": 1}, None),
        ({"prompts": [entry(0, 3, transitionSteps=-1)]}, "transition.blocks"),
        ({"prompts": [entry(0, 3, transitionSteps=True)]}, "got True"),
        ({"prompts": [entry(0, 3, temporalInterpolationMethod="cubic")]}, "must be one of linear, slerp"),
        ({"prompts": [entry(3, 4), entry(0, 3)]}, "sort them"),
        ({"prompts": [entry(0, 3)], "settings": {"seed": -1}}, "`seed`"),
        ({"prompts": [entry(0, 3)], "settings": 3}, "`settings` must be an object"),
        ({"format": "scope-workflow"}, "must be a list"),
    ],
)
def test_bad_scope(item, words):
    if words is None:  # one prompt alone is in force whatever its weight
        assert formats.loads(json.dumps(item), "scope").timeline.segments[0].parts == ((FOX, 1.0),)
        return
    with pytest.raises(ValueError, match=words):
        formats.loads(json.dumps(item), "scope")


# Places


def test_a_timeline_is_written_where_a_file_may_lie(tmp_path, capsys):
    line = Timeline.of(FOX)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*create it first"):
        line.save(tmp_path / "nowhere" / "b.json")
    with pytest.raises(FileExistsError, match="is a folder; name a file in it"):
        line.save(tmp_path / "folder.json")
    line.save(tmp_path / "a.json")
    convert = ["timeline", "convert", str(tmp_path / "a.json")]
    assert cli.main([*convert, str(tmp_path / "nowhere" / "b.json")]) == 1
    assert "create it first" in capsys.readouterr().err
    assert cli.main([*convert, str(tmp_path / "folder.json"), "--force"]) == 1
    assert "name a file in it" in capsys.readouterr().err
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.json", "folder.json"]


# The command


def test_convert_between_all_formats(tmp_path, capsys):
    RICH.save(tmp_path / "a.json")
    names = [("b.jsonl", []), ("c.json", ["--to", "scope"]), ("d.txt", []), ("e.json", [])]
    for name, more in names:
        assert cli.main(["timeline", "convert", str(tmp_path / "a.json"), str(tmp_path / name), *more]) == 0
    said = capsys.readouterr().err
    assert 'LongLive\'s JSON lines cannot hold the switches; set switch_frame_indices: "15,27"' in said
    assert "Scope's JSON cannot hold the policies" in said
    assert "plain text cannot hold the blends" in said
    assert Timeline.load(tmp_path / "e.json") == RICH
    back = ["timeline", "convert", str(tmp_path / "b.jsonl"), str(tmp_path / "f.json")]
    assert cli.main([*back, "--switches", "15,27"]) == 0
    assert [s.start for s in Timeline.load(tmp_path / "f.json").segments] == [0, 5, 9]
    assert cli.main(["timeline", "convert", str(tmp_path / "c.json"), str(tmp_path / "g.json")]) == 0
    assert Timeline.load(tmp_path / "g.json").segments[1].transition == Transition(2, "spherical")
    for words, message in (
        (["--switches", "15"], "must hold 2 latent frames"),
        (["--switches", "a,b"], "separated by commas"),
        (["--video", "3"], "`video`"),
        (["--from", "txt", "--switches", "3"], 'belong to "longlive"'),
    ):
        assert cli.main([*back, "--force", *words]) == 1
        assert message in capsys.readouterr().err
