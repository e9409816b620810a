"""Alignment by the probe and by a text-image model, against the same numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.config import from_dict
from studio.evaluate.alignment import ProbeJudge, TextImageJudge
from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import load_checked, read
from studio.world import ATTRIBUTES, Scene, SceneBatch, canonical_caption, render

PROBE = Path(__file__).parents[2] / "assets" / "miniature" / "probe.safetensors"


@pytest.fixture(scope="module")
def probe():
    sizes, state = read(PROBE, kind="probe")
    probe = Probe(from_dict(ProbeConfig, sizes)).eval()
    load_checked(probe, state, PROBE)
    return probe


def film(scene: Scene, frames: int = 24) -> np.ndarray:
    pixels = render(SceneBatch.of([scene], 3, "cpu"), frames=frames, size=128, start=40).pixels[0]
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def scene(**names: str) -> Scene:
    return Scene(**{**{name: values[0] for name, values in ATTRIBUTES.items()}, **names})


def test_a_rendered_clip_shows_its_own_caption_and_no_other(probe):
    judge = ProbeJudge(probe)
    mine = scene()
    other = scene(**{name: values[1] for name, values in ATTRIBUTES.items()})
    half = scene(colour=ATTRIBUTES["colour"][1], place=ATTRIBUTES["place"][1])
    texts = [canonical_caption(one) for one in (mine, other, half)]
    own, foreign, between = judge(film(mine), texts)
    assert own > 0.9
    assert foreign < 0.1
    assert between == pytest.approx(0.5, abs=0.1)


def test_the_number_is_the_mean_of_the_probabilities_of_what_is_named(probe):
    frames = film(scene())
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        logits = probe(pixels)
    colour, place = ATTRIBUTES["colour"][2], ATTRIBUTES["place"][1]
    wanted = [
        float(logits[name][0].exp()[ATTRIBUTES[name].index(value)] / logits[name][0].exp().sum())
        for name, value in (("colour", colour), ("place", place))
    ]
    words = canonical_caption(scene(colour=colour, place=place))
    (found,) = ProbeJudge(lambda: probe)(frames, [words])
    shape, action = (
        float(logits[name][0].softmax(0)[0]) for name in ("shape", "action")
    )  # the caption names those as well
    assert found == pytest.approx((sum(wanted) + shape + action) / 4, abs=1e-5)


def test_a_text_that_names_nothing_has_no_number(probe):
    (found,) = ProbeJudge(probe)(film(scene()), ["zzz qqq"])
    assert math.isnan(found)


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_what_is_no_film_is_refused(probe, frames):
    with pytest.raises(ValueError, match=r"`frames` must be uint8 \[T, H, W, 3\]"):
        ProbeJudge(probe)(frames, ["a red fox"])
    with pytest.raises(ValueError, match=r"`frames` must be uint8 \[T, H, W, 3\]"):
        TextImageJudge(None, None)(frames, ["a red fox"])


def test_a_text_image_model_is_asked_for_cosines():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 32, "max_position_embeddings": 8, "eos_token_id": 31},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    asked = []

    def processor(images=None, text=None, **_):
        if images is not None:
            asked.append(len(images))
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
            return {"pixel_values": pixels}
        ids = torch.tensor([[1, *(ord(letter) % 29 + 1 for letter in line[:5]), 31] for line in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    judge = TextImageJudge(model, processor, every=3)
    found = judge(frames, ["a fox", "a ball"])
    assert asked == [3]
    picked = torch.from_numpy(frames[[0, 3, 6]]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixel_values=picked).pooler_output)
        for text, cosine in zip(["a fox", "a ball"], found, strict=True):
            tokens = processor(text=[text])
            words = model.text_projection(model.text_model(**tokens).pooler_output)
            wanted = torch.cosine_similarity(image, words.expand_as(image)).mean()
            assert cosine == pytest.approx(float(wanted), abs=1e-5)
    assert judge(frames, ["a fox"]) == found[:1]
    with pytest.raises(ValueError, match="`every` must be at least 1 frame, got 0"):
        TextImageJudge(model, processor, every=0)
