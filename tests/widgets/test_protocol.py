"""What comes from the browser is checked field by field; what goes to it is plain JSON."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from studio.events import DecodedBlock, Stats, Switch
from studio.timeline import Segment, Timeline
from studio.widgets import codec, protocol
from studio.widgets.palette import COLOURS, Palette
from tests.widgets import cases

GOOD = [
    {"type": "ready", "client": "a", "hidden": False},
    {"type": "ack", "client": "a", "serial": 3},
    {"type": "ack", "client": "a", "serial": 3.0},
    {"type": "played", "client": "a", "frame": 9, "take": 0, "hidden": True},
    {"type": "switch", "client": "a", "id": 1, "prompt": "a fox", "policy": None, "at": None},
    {"type": "restart", "client": "a", "id": 1, "seed": 7},
    {"type": "edit", "client": "a", "id": 1, "do": "apply", "operation": {"op": "split", "at": 3}, "version": 2},
    {"type": "edit", "client": "a", "id": 1, "do": "undo", "past": "keep"},
    {"type": "paste", "client": "a", "id": 1, "text": "<b>a</b>", "at": 3, "over": False},
    {"type": "take", "client": "a", "id": 1, "do": "rename", "take": 1, "name": "night"},
    {"type": "quick", "client": "a", "id": 1, "prompts": [{"name": "runs", "prompt": "a fox runs"}]},
    {"type": "thumbs", "client": "a", "take": 0, "blocks": [0, 4.0]},
    {"type": "bye", "client": "a", "extra": "ignored"},
]

BAD = [
    (None, "must be an object"),
    ([], "must be an object"),
    ({}, "`type` must be one of"),
    ({"type": "reboot", "client": "a"}, "`type` must be one of"),
    ({"type": ["ack"], "client": "a"}, "`type` must be one of"),
    ({"type": "ack", "serial": 1}, "`client`"),
    ({"type": "ack", "client": "a" * 65, "serial": 1}, "`client`"),
    ({"type": "ack", "client": "a"}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": -1}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": True}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": 1.5}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": math.inf}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": math.nan}, "`serial` must be an integer"),
    ({"type": "ack", "client": "a", "serial": 2.0**60}, "`serial` must be an integer"),
    ({"type": "switch", "client": "a", "id": 1, "prompt": 5}, "`prompt` must be a text"),
    ({"type": "switch", "client": "a", "id": 1, "prompt": "x" * 200_000}, "`prompt` must be a text"),
    ({"type": "played", "client": "a", "frame": 1, "take": 0, "hidden": "no"}, "`hidden` must be true or false"),
    ({"type": "edit", "client": "a", "id": 1, "do": "apply", "operation": "split"}, "`operation` must be an object"),
    ({"type": "edit", "client": "a", "id": 1, "operation": {}}, "`do` must be a text"),
    ({"type": "edit", "client": "a", "id": 1, "do": "undo", "version": -1}, "`version` must be an integer"),
    ({"type": "paste", "client": "a", "id": 1, "text": "a", "at": 3, "over": 1}, "`over` must be true or false"),
    ({"type": "import", "client": "a", "id": 1, "name": "a.txt", "text": "x" * 2**25}, "`text` must be a text of"),
    ({"type": "quick", "client": "a", "id": 1, "prompts": {}}, "`prompts` must be a list"),
    ({"type": "thumbs", "client": "a", "take": 0, "blocks": [1, -2]}, "`blocks` must be an integer"),
    ({"type": "thumbs", "client": "a", "take": 0, "blocks": [1] * 1001}, "`blocks` must be a list of at most"),
]


@pytest.mark.parametrize("content", GOOD)
def test_good_messages_are_understood(content: dict) -> None:
    message = protocol.parse(content)
    assert message.kind == content["type"]
    assert message.client == "a"
    assert all(message[name] == content.get(name) for name in message.fields)


@pytest.mark.parametrize(("content", "why"), BAD)
def test_bad_messages_are_refused_with_the_reason(content: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        protocol.parse(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    [*protocol.COMMANDS, "ready", "bye", "ack", "played", "ping", "words", "thumbs", "failure", "nothing"]
)
NAMES = st.sampled_from(
    ["client", "id", "serial", "frame", "take", "hidden", "prompt", "do", "at", "past", "seed", "text", "blocks"]
)


@given(st.builds(lambda kind, rest: {**rest, "type": kind}, KINDS, st.dictionaries(NAMES, JSON)) | JSON)
def test_nothing_but_a_value_error_comes_of_any_json(content: object) -> None:
    with contextlib.suppress(ValueError):
        protocol.parse(content)


def test_messages_to_the_browser_are_json_without_infinities() -> None:
    switch = Switch(
        prompt="a",
        policy="keep",
        requested_frame=1,
        requested_block=0,
        effective_block=2,
        effective_frame=21,
        latency_s=math.nan,
    )
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    block = DecodedBlock(index=2, first_frame=21, frames=frames, prompt="a", segment=0, switch=switch)
    timeline = Timeline((Segment("a"), Segment("b", 3, colour="#123456")))
    messages = [
        protocol.switch_message(switch),
        protocol.stats_message(Stats(generated_fps=math.inf), 3, "CPU"),
        protocol.block_message(block, 1, codec.encode_frames(frames[1:])),
        protocol.timeline_message(timeline, Palette().colours(timeline)),
    ]
    for message in messages:
        assert json.loads(json.dumps(message, allow_nan=False)) == message
    assert messages[1]["generated_fps"] is None
    assert messages[2]["first"] == 22
    assert messages[2]["end"] == 23
    assert messages[3]["segments"][1]["colour"] == "#123456"


def test_the_grid_of_blocks_comes_from_the_timeline() -> None:
    assert protocol.grid_of(Timeline((Segment("a"),))) == {"first": 9, "rest": 12}
    assert protocol.grid_of(Timeline((Segment("a"),), block_latent_frames=1)) == {"first": 1, "rest": 4}


def test_colours_survive_jpeg() -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    picture = np.stack([rows * 4, columns * 4, 255 - rows * 2 - columns * 2], -1).astype(np.uint8)
    picture[16:32, 16:32] = (255, 0, 0)
    [jpeg] = codec.encode_frames(picture[None])
    error = simplejpeg.decode_jpeg(jpeg).astype(int) - picture
    assert np.abs(error).mean() < 2.5


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 4), np.uint8)]
)
def test_only_frames_are_encoded(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        codec.encode_frames(frames)


def test_a_prompt_keeps_its_colour() -> None:
    palette = Palette()
    first = Timeline.of("a", "b", "a", blocks=3)
    assert palette.colours(first) == [0, 1, 0]
    inserted = first.put(Segment("c", 1))
    assert palette.colours(inserted) == [0, 2, 1, 0]
    edited = inserted.edit(1, prompt="d")
    assert palette.colours(edited) == [0, 2, 1, 0]
    many = Timeline.of(*(f"p{i}" for i in range(3 * COLOURS)), blocks=1)
    assert set(Palette().colours(many)) == set(range(COLOURS))


def test_the_front_end_is_held_against_the_timeline_of_today() -> None:
    assert cases.FILE.read_text(encoding="utf-8") == cases.written(), "run: python -m tests.widgets.cases"
