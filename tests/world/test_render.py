"""Frames are functions of their absolute time, and a switch changes nothing before it."""

import pytest
import torch

from studio.world import ACTIONS, COLOURS, PLACES, SHAPES, Scene, SceneBatch, held_out, parse, render, switched
from studio.world.figures import figure_tables
from studio.world.sheet import sheet

SIZE = 32


def _one_of_each() -> SceneBatch:
    scenes = [
        Scene(shape=s, colour=COLOURS[i], action=ACTIONS[i], place=PLACES[i % len(PLACES)])
        for i, s in enumerate(SHAPES)
    ]
    return SceneBatch.of(scenes, seed=2)


def test_pixels_and_mask_are_in_range_and_the_figure_is_there() -> None:
    clip = render(_one_of_each(), frames=6, size=SIZE)
    assert clip.pixels.shape == (8, 6, 3, SIZE, SIZE)
    assert clip.mask.shape == (8, 6, 1, SIZE, SIZE)
    assert clip.pixels.dtype == clip.mask.dtype == torch.float32
    assert clip.pixels.isfinite().all()
    assert clip.pixels.abs().max() <= 1
    assert clip.mask.min() >= 0 and clip.mask.max() <= 1
    share = clip.mask.mean(dim=(2, 3, 4))
    assert share.min() > 0.02 and share.max() < 0.45


def test_same_seed_same_pixels() -> None:
    a, b = SceneBatch.sample(3, seed=5), SceneBatch.sample(3, seed=5)
    assert torch.equal(render(a, frames=3, size=SIZE).pixels, render(b, frames=3, size=SIZE).pixels)
    assert not torch.equal(a.nuisance, SceneBatch.sample(3, seed=6).nuisance)


def test_a_slice_equals_the_whole() -> None:
    batch = _one_of_each()
    whole = render(batch, frames=20, size=SIZE)
    piece = render(batch, start=11, frames=5, size=SIZE)
    assert torch.equal(whole.pixels[:, 11:16], piece.pixels)
    assert torch.equal(whole.mask[:, 11:16], piece.mask)
    starts = torch.tensor([0, 3, 5, 7, 9, 11, 13, 15])
    several = render(batch, start=starts, frames=2, size=SIZE)
    for i, s in enumerate(starts.tolist()):
        assert torch.equal(whole.pixels[i, s : s + 2], several.pixels[i])


@pytest.mark.parametrize("attribute", ["shape", "colour", "action", "place"])
def test_a_switch_keeps_the_frames_before_it_and_reaches_the_new_scene(attribute: str) -> None:
    batch = SceneBatch.sample(3, seed=4)
    after = switched(batch, {attribute}, seed=3)
    plain = render(batch, frames=18, size=SIZE).pixels
    clip = render(batch, frames=18, size=SIZE, after=after, switch_frame=4).pixels
    assert (clip[:, :4] - plain[:, :4]).abs().max() < 2e-3
    assert ((clip[:, 16:] - plain[:, 16:]).abs().mean(dim=(1, 2, 3, 4)) > 1e-3).all()
    jumps = (clip[:, 1:] - clip[:, :-1]).abs().mean(dim=(2, 3, 4))
    assert jumps.max() < 0.25
    if attribute != "action":  # The scenery of another action has travelled another way.
        assert torch.allclose(clip[:, 16:], render(after, start=16, frames=2, size=SIZE).pixels, atol=2e-3)


def test_switched_changes_only_what_is_asked() -> None:
    batch = SceneBatch.sample(40, seed=1)
    after = switched(batch, {"action"}, seed=2)
    assert (after.action != batch.action).all()
    for name in ("shape", "colour", "place", "nuisance"):
        assert torch.equal(getattr(after, name), getattr(batch, name))


def test_clips_have_no_end() -> None:
    clip = render(_one_of_each(), start=16 * 60, frames=2, size=SIZE)
    assert clip.pixels.isfinite().all()
    assert clip.mask.mean(dim=(2, 3, 4)).min() > 0.02


def test_actions_differ_in_the_picture() -> None:
    scenes = [Scene(shape="robot", colour="red", action=a, place="room") for a in ACTIONS]
    same = SceneBatch.of(scenes, seed=0)
    nuisance = same.nuisance[:1].expand_as(same.nuisance).contiguous()
    batch = SceneBatch(shape=same.shape, colour=same.colour, action=same.action, place=same.place, nuisance=nuisance)
    masks = render(batch, frames=16, size=SIZE).mask.flatten(1)
    distance = torch.cdist(masks, masks, p=1) / masks.sum(1).mean()
    assert (distance + torch.eye(len(ACTIONS)) * 9).min() > 0.1


def test_sampling_keeps_to_its_split_and_captions_to_their_scenes() -> None:
    for split, kept in (("train", False), ("held_out", True)):
        batch = SceneBatch.sample(200, seed=1, split=split)
        assert all(held_out(s) == kept for s in batch.scenes())
    for text, scene in zip(batch.captions(seed=4), batch.scenes(), strict=True):
        assert parse(text)["shape"] == scene.shape
    assert batch.captions(seed=4) == batch.captions(seed=4)
    assert batch.scene(7) == batch.scenes()[7]


def test_tables_fit() -> None:
    columns, bones, build = figure_tables(torch.device("cpu"))
    assert len(columns) == len(bones) == len(build) == len(SHAPES)


def test_sheet_lays_out_clips_and_checks_captions() -> None:
    clip = render(SceneBatch.sample(2, seed=0), frames=3, size=SIZE)
    assert sheet(clip.pixels, ["a", "b"], columns=3).size == (3 * SIZE, 2 * (SIZE + 14))
    with pytest.raises(ValueError, match="`captions` must hold 2 texts, got 1"):
        sheet(clip.pixels, ["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: render(b, frames=0), "`frames` must be at least 1, got 0"),
        (lambda b: render(b, size=4), "`size` must be at least 16 pixels, got 4"),
        (lambda b: render(b, fps=0), "`fps` must be positive and finite, got 0"),
        (lambda b: render(b, switch_frame=3), "`after` and `switch_frame` go together"),
        (lambda b: render(b, after=SceneBatch.sample(2), switch_frame=3), "`after` must hold 1 scenes, got 2"),
        (lambda b: switched(b, {"weather"}), "`attributes` must be among .*'weather'"),
        (lambda b: SceneBatch.sample(0), "`n` must be at least 1, got 0"),
        (lambda b: SceneBatch.of([]), "`scenes` must hold at least one scene"),
        (
            lambda b: SceneBatch(
                shape=b.shape.float(), colour=b.colour, action=b.action, place=b.place, nuisance=b.nuisance
            ),
            "`shape` must be int64",
        ),
    ],
)
def test_bad_input_names_the_value_and_the_remedy(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(SceneBatch.sample(1, seed=0))
