"""The words of the world name every attribute, and the split keeps combinations apart."""

import random

import pytest

from studio.world import (
    ATTRIBUTES,
    Scene,
    all_scenes,
    canonical_caption,
    caption,
    held_out,
    parse,
    sample_scene,
    vocabulary,
)
from studio.world import grammar as g


def _names(scene: Scene) -> dict[str, str]:
    return {name: getattr(scene, name) for name in ATTRIBUTES}


def test_every_caption_is_read_back_and_keeps_to_the_vocabulary() -> None:
    rng, known = random.Random(1), set(vocabulary())
    for _ in range(6000):
        scene = sample_scene(rng, "all")
        text = caption(scene, rng)
        assert parse(text) == _names(scene), text
        assert set(g.words_of(text)) <= known, text
        assert text == text.lower()


def test_every_scene_has_a_canonical_caption_that_is_read_back() -> None:
    for scene in all_scenes():
        assert parse(canonical_caption(scene)) == _names(scene)


def test_enough_concepts_and_phrasings() -> None:
    assert [len(v) >= least for v, least in zip(ATTRIBUTES.values(), (8, 8, 8, 6), strict=True)] == [True] * 4
    for table, names in zip(
        (g.SHAPE_WORDS, g.COLOUR_WORDS, g.ACTION_WORDS, g.PLACE_WORDS), ATTRIBUTES.values(), strict=True
    ):
        assert tuple(table) == names
        assert all(len(set(phrases)) >= 4 for phrases in table.values())


def test_no_key_names_two_concepts() -> None:
    assert all(len(names) == 1 for names in g._keywords().values())


def test_captions_vary_and_repeat_with_their_seed() -> None:
    scene = Scene(shape="fox", colour="red", action="runs", place="snow")
    texts = {caption(scene, random.Random(i)) for i in range(200)}
    assert len(texts) > 100
    assert caption(scene, random.Random(5)) == caption(scene, random.Random(5))


def test_split_is_disjoint_and_about_a_tenth() -> None:
    train, kept = all_scenes("train"), all_scenes("held_out")
    assert not set(train) & set(kept)
    assert len(train) + len(kept) == len(all_scenes())
    assert 0.07 < len(kept) / len(all_scenes()) < 0.13
    assert all(held_out(s) for s in kept)
    for name, names in ATTRIBUTES.items():
        assert {getattr(s, name) for s in kept} == set(names) == {getattr(s, name) for s in train}


def test_free_text_is_read_as_far_as_it_goes() -> None:
    assert parse("A RED fox!!") == {"shape": "fox", "colour": "red", "action": None, "place": None}
    assert parse("") == dict.fromkeys(ATTRIBUTES)
    assert parse("make the bunny jump at the beach")["place"] == "sea"
    assert parse("\x00 🦊 <b>fox</b>")["shape"] == "fox"


def test_wrong_names_are_told_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"`colour` must be one of red, .*'beige'"):
        Scene(shape="fox", colour="beige", action="runs", place="snow")
    with pytest.raises(ValueError, match=r"`split`.*'test'.*use"):
        sample_scene(random.Random(0), "test")
