"""Words of a prompt, and attention pooled by them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studio.model.text import PieceTokenizer, WordTokenizer
from studio.probes import AttentionProbe, Watch, Word, words_of
from tests.contracts import tiny
from tests.probes import takes

TOKENIZER = WordTokenizer(["a", "red", "fox", "runs", "night", "well", "known"])


class Pieces:
    """Cuts words into pieces of two letters; "new york" is joined into one piece, as no honest tokenizer should."""

    def __call__(self, prompts, length):
        ids, mask = torch.zeros(len(prompts), length, dtype=torch.int64), torch.zeros(len(prompts), length)
        for row, prompt in enumerate(prompts):
            pieces = []
            for word in prompt.replace("new york", "newyork").split():
                size = len(word) if word == "newyork" else 2
                pieces += [word[i : i + size] for i in range(0, len(word), size)]
            tokens = [3 + sum(map(ord, piece)) * 7 + len(piece) for piece in pieces][: length - 1] + [1]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        return ids, mask

    def unknown_words(self, text):
        return []


def spans(tokenizer, prompt, length=32):
    return [(word.text, word.start, word.stop) for word in words_of(tokenizer, prompt, length)]


def test_a_word_is_a_token_of_the_miniature():
    assert spans(TOKENIZER, "A red  fox\nruns!") == [("A", 0, 1), ("red", 1, 2), ("fox", 2, 3), ("runs!", 3, 4)]


def test_punctuation_alone_is_no_word_and_unknown_words_are():
    assert spans(TOKENIZER, "red - zebra") == [("red", 0, 1), ("zebra", 1, 2)]
    assert spans(TOKENIZER, "red,fox well-known") == [("red,fox", 0, 2), ("well-known", 2, 3)]


def test_pieces_belong_to_their_word():
    assert spans(Pieces(), "a golden fox") == [("a", 0, 1), ("golden", 1, 4), ("fox", 4, 6)]


def test_words_that_a_tokenizer_joins_stay_joined():
    assert spans(Pieces(), "in new york now") == [("in", 0, 1), ("new york", 1, 2), ("now", 2, 4)]


def test_words_beyond_the_end_are_left_out():
    assert spans(TOKENIZER, "a red fox runs", length=3) == [("a", 0, 1), ("red", 1, 2)]


@pytest.mark.parametrize("prompt", ["", "   ", "...", "\n\t"])
def test_a_prompt_without_words_has_none(prompt):
    assert spans(TOKENIZER, prompt) == []


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`length` must be at least 1"):
        words_of(TOKENIZER, "red fox", 0)


@given(st.text(max_size=80), st.integers(1, 12), st.sampled_from([TOKENIZER, Pieces()]))
def test_words_never_overlap_and_cover_every_token(prompt, length, tokenizer):
    words = words_of(tokenizer, prompt, length)
    covered = [token for word in words for token in range(word.start, word.stop)]
    _, mask = tokenizer([" ".join(prompt.split())], length)
    assert covered == list(range(int(mask.sum()) - 1))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> PieceTokenizer:
    """The big checkpoints' tokenizer over a small vocabulary of unigram pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    parts = ["▁", "▁fox", "▁run", "ning", "s", "▁gold", "en", "▁a", ",", "-", *"abcdefghijklmnopqrstuvwxyzA"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((part, -1.0 - len(part) ** -1) for part in parts)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path_factory.mktemp("pieces")
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return PieceTokenizer(folder)


def test_words_of_sentence_pieces_are_told_apart_by_their_spaces(pieces):
    prompt = "A golden fox, run-running ж foxes"
    ids, mask = pieces([prompt], 64)
    tokens = pieces._backend.convert_ids_to_tokens(ids[0, : int(mask.sum()) - 1].tolist())
    words = words_of(pieces, prompt, 64)
    assert [word.text for word in words] == prompt.split()
    assert words[0].start == 0 and words[-1].stop == len(tokens)
    for before, word in itertools.pairwise(words):
        assert before.stop == word.start and tokens[word.start].startswith("▁")
    assert all(not token.startswith("▁") for word in words for token in tokens[word.start + 1 : word.stop])


@given(st.lists(st.text(alphabet="abcxyzA,-ж", min_size=1, max_size=6), max_size=8), st.integers(2, 20))
def test_pieces_cover_every_token(pieces, parts, length):
    prompt = " ".join(parts)
    covered = [token for word in words_of(pieces, prompt, length) for token in range(word.start, word.stop)]
    _, mask = pieces([prompt], length)
    assert covered == (list(range(int(mask.sum()) - 1)) if parts else [])


def reading():
    dit, probe = tiny.dit(), AttentionProbe(tiny.DIT, steps=len(tiny.SAMPLER.steps))
    with Watch(dit, tiny.SAMPLER, probe):
        list(takes.roll(dit, tiny.cache(), takes.plan(1)))
    return probe.readings[0]


def test_attention_by_word_is_the_sum_over_its_tokens():
    found = reading()
    words = (Word(text="a", start=0, stop=1), Word(text="golden", start=1, stop=4))
    by_word = found.by_word(words)
    for w, tokens in enumerate(([0], [1, 2, 3])):
        np.testing.assert_allclose(by_word.mass[..., w], sum(found.text_mass[..., t] for t in tokens), atol=1e-6)
        np.testing.assert_allclose(by_word.maps[..., w], sum(found.text_maps[..., t] for t in tokens), atol=1e-6)
    np.testing.assert_allclose(by_word.rest, found.text_mass[..., 4], atol=1e-6)
    rows = by_word.rows()
    assert len(rows) == by_word.mass.size
    assert {(r["word"], r["index"]) for r in rows} == {("a", 0), ("golden", 1)}
    assert sum(r["mass"] for r in rows) == pytest.approx(float(by_word.mass.sum()), rel=1e-5)


def test_the_heat_of_a_word_is_a_picture_of_the_sampled_positions():
    found = reading()
    by_word = found.by_word((Word(text="a", start=0, stop=1), Word(text="fox", start=1, stop=4)))
    heat = by_word.heat(1)
    assert heat.shape == (tiny.DIT.layers, 3, *tiny.GRID)
    for index, (row, column) in enumerate(by_word.samples):
        np.testing.assert_array_equal(heat[:, :, row, column], by_word.maps[:, :, index, 1])


@pytest.mark.parametrize("word", [-1, 1])
def test_the_heat_of_no_word_is_refused(word):
    with pytest.raises(ValueError, match=r"`word` must lie in 0..0"):
        reading().by_word([Word(text="fox", start=0, stop=1)]).heat(word)


def test_no_words_leave_everything_to_the_rest():
    np.testing.assert_allclose(reading().by_word(()).rest, 1, atol=1e-5)


@pytest.mark.parametrize("span", [(4, 6), (2, 2), (-1, 1), (3, 2)])
def test_words_outside_the_text_are_refused(span):
    with pytest.raises(ValueError, match="must lie within the 5 text tokens"):
        reading().by_word([Word(text="fox", start=span[0], stop=span[1])])
