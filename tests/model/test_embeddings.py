"""Embeddings on disk: encoded once, found by content, and never a reason to stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.model.embeddings import CachedText, EmbeddingStore, cache_folder, fingerprint
from studio.model.sources import open_stem
from studio.model.weights import layout_of, load, save
from tests.model.tiny import tiny_models

PROMPTS = ["a red fox", "", "a red fox runs a red fox runs a red", "\0 unseen 🦊", "\ud800"]


class Counting:
    """Loads the tiny encoder and counts how often."""

    def __init__(self):
        self.loads = 0

    def __call__(self):
        self.loads += 1
        return tiny_models().text


def cached(folder, load, key="k", **options) -> CachedText:
    text = tiny_models().text
    return CachedText(text.config, text.tokenizer, EmbeddingStore(folder, key), load, **options)


def test_what_comes_back_is_what_was_encoded(tmp_path):
    count, plain = Counting(), tiny_models().text
    expected = plain.encode(PROMPTS)
    # Batched matrix products may round otherwise than single ones.
    torch.testing.assert_close(cached(tmp_path, count).encode(PROMPTS), expected, atol=1e-6, rtol=1e-5)
    first = cached(tmp_path, count).encode(PROMPTS)
    assert torch.equal(first, cached(tmp_path, count).encode(PROMPTS))
    assert count.loads == 1
    assert torch.equal(cached(tmp_path, count).encode(PROMPTS[2:3]), first[2:3])


def test_the_encoder_is_loaded_for_new_prompts_only_and_let_go(tmp_path):
    count = Counting()
    text = cached(tmp_path, count)
    text.encode(PROMPTS[:2])
    assert not text.loaded
    text.encode(["fox", *PROMPTS[:2]])
    assert count.loads == 2
    kept = cached(tmp_path, count, keep=True)
    kept.encode(["runs"])
    kept.encode(["fox runs"])
    assert kept.loaded
    assert count.loads == 3
    kept.unload()
    assert not kept.loaded


def test_equal_prompts_are_encoded_once(tmp_path):
    text = cached(tmp_path, Counting())
    rows = text.encode(["fox", "fox"])
    assert torch.equal(rows[0], rows[1])
    assert len(list(tmp_path.iterdir())) == 1


def test_padding_is_not_stored(tmp_path):
    cached(tmp_path, Counting()).encode(["fox"])
    assert load_file(next(tmp_path.glob("*")))["text"].shape == (2, 16)


def test_type_and_device_are_those_asked_for(tmp_path):
    text = cached(tmp_path, Counting(), dtype=torch.bfloat16).to("cpu")
    assert text.encode(["fox"]).dtype == torch.bfloat16
    assert text.unknown_words("a blue fox") == ["blue"]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_file_is_encoded_anew(tmp_path, damage):
    count = Counting()
    expected = cached(tmp_path, count).encode(["fox"])
    file = next(tmp_path.glob("*"))
    if damage is None:
        save_file({"text": torch.zeros(99, 3)}, file)
    else:
        file.write_bytes(damage)
    assert torch.equal(cached(tmp_path, count).encode(["fox"]), expected)
    assert count.loads == 2
    assert torch.equal(cached(tmp_path, count).encode(["fox"]), expected)
    assert count.loads == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert cached(tmp_path / "file", Counting()).encode(["fox"]).shape == (1, 8, 16)


def test_another_encoder_finds_nothing(tmp_path):
    count = Counting()
    cached(tmp_path, count).encode(["fox"])
    cached(tmp_path, count, key="other").encode(["fox"])
    assert count.loads == 2


def test_the_oldest_go_first(tmp_path):
    one = EmbeddingStore(tmp_path, "k")
    one.put("a", torch.zeros(4, 16))
    size = next(tmp_path.glob("*")).stat().st_size
    store = EmbeddingStore(tmp_path, "k", limit=2 * size)
    for age, prompt in enumerate("bc"):
        os.utime(store.path("a"), (10, 10))
        store.put(prompt, torch.full((4, 16), float(age)))
        os.utime(store.path(prompt), (20 + age, 20 + age))
    assert store.get("a") is None
    assert store.get("b") is not None
    store.put("d", torch.zeros(4, 16))
    # Reading "b" made it the younger one.
    assert store.get("c") is None
    assert store.get("b") is not None
    with pytest.raises(ValueError, match="`limit` must be at least 0"):
        EmbeddingStore(tmp_path, "k", limit=-1)


def test_a_fingerprint_tells_encoders_apart(tmp_path):
    models = tiny_models()
    save(models, tmp_path)
    config, tokenizer = models.config.text, tmp_path / "tokenizer.json"
    make = lambda how="": fingerprint(config, open_stem(tmp_path, "text"), tokenizer, how)  # noqa: E731
    first = make()
    assert make() == first
    assert make("int8") != first
    state = load_file(tmp_path / "text.safetensors")
    state["norm.weight"][3] += 1
    save_file(state, tmp_path / "text.safetensors")
    second = make()
    assert second != first
    tokenizer.write_text(tokenizer.read_text().replace("fox", "dog"))
    assert make() not in (first, second)


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("STUDIO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "longlive-studio"
    # Nobody's home is asked for where the folder is named.
    monkeypatch.setattr(Path, "home", lambda: pytest.fail("the home folder was asked for"))
    monkeypatch.setenv("STUDIO_CACHE", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path


def test_loading_with_embeddings_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_CACHE", str(tmp_path / "cache"))
    save(tiny_models(), tmp_path / "m")
    plain, lazy = load(tmp_path / "m"), load(tmp_path / "m", text_cache=True)
    assert isinstance(lazy.text, CachedText)
    torch.testing.assert_close(lazy.text.encode(["a red fox"]), plain.text.encode(["a red fox"]))
    again = load(tmp_path / "m", text_cache=True)
    monkeypatch.setattr("studio.model.weights.read_text", lambda *_, **__: pytest.fail("the encoder was loaded"))
    assert torch.equal(again.text.encode(["a red fox"]), lazy.text.encode(["a red fox"]))
    assert layout_of(tmp_path / "m")[0].kind == "studio"
