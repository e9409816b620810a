"""The big checkpoints' tokenizer: prompts cleaned as Wan2.1 cleans them, and folders that bring code of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.config import TextConfig
from studio.model.embeddings import fingerprint
from studio.model.shards import write_shards
from studio.model.sources import open_stem
from studio.model.text import BringsCode, PieceTokenizer, WordTokenizer, to_official_keys
from studio.model.weights import load
from tests.model import official
from tests.model.tiny import WORDS, tiny_models


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> PieceTokenizer:
    folder = tmp_path_factory.mktemp("pieces") / "umt5-xxl"
    official.write_tokenizer(folder)
    return PieceTokenizer(folder)


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [
        ("it’s a “red” fox", 'it\'s a "red" fox'),
        ("a fox &amp; a cat", "a fox & a cat"),
        ("a &amp;lt;red&amp;gt; fox", "a <red> fox"),
        ("a cafÃ© by the sea", "a café by the sea"),
        ("  a\tred \n\n fox\u00a0", "a red fox"),
        ("a red&nbsp;&#32; fox", "a red fox"),
        ("", ""),
    ],
)
def test_prompts_are_mended_as_wan_mends_them(pieces, prompt, clean):
    assert pieces.clean(prompt) == clean
    assert all(a.equal(b) for a, b in zip(pieces([prompt], 8), pieces([clean], 8), strict=True))


def test_an_entity_is_the_letter_that_it_stands_for(pieces):
    assert pieces(["a &#114;ed fox"], 8)[0].tolist() == pieces(["a red fox"], 8)[0].tolist()


@given(st.text())
def test_any_text_is_cleaned_to_single_spaces(pieces, prompt):
    clean = pieces.clean(prompt)
    assert clean == " ".join(clean.split())
    assert pieces([prompt], 4)[0].shape == (1, 4)


def test_the_miniatures_words_stay_as_they_are():
    assert WordTokenizer(WORDS).split("a &amp; fox") == ["a", "amp", "fox"]


def test_embeddings_of_another_cleaning_are_not_used(pieces, tmp_path, monkeypatch):
    models = tiny_models()
    write_shards(tmp_path, "text", to_official_keys(models.text.state_dict()))
    models.text.tokenizer.save(tmp_path / "tokenizer.json")
    of = lambda tokenizer: fingerprint(TextConfig(), open_stem(tmp_path, "text"), tokenizer)  # noqa: E731
    before = of(pieces.folder), of(tmp_path / "tokenizer.json")
    assert of(pieces.folder) == before[0]
    monkeypatch.setattr(PieceTokenizer, "CLEANING", "white space")
    assert of(pieces.folder) != before[0]
    assert of(tmp_path / "tokenizer.json") == before[1]


class Terminal:
    """A terminal on which nobody may be asked."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_: int) -> str:
        pytest.fail("the terminal was asked")

    read = readline


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_code_in_a_tokenizers_folder_never_runs_and_nobody_is_asked(file, tmp_path, monkeypatch):
    folder = official.write_official(tmp_path / "m") / "google" / "umt5-xxl"
    told = json.loads((folder / file).read_text()) if (folder / file).exists() else {"model_type": "evil"}
    names = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    (folder / file).write_text(json.dumps({**told, "tokenizer_class": "Evil", "auto_map": names}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the terminal was asked"))
    for make in (lambda: PieceTokenizer(folder), lambda: load(tmp_path / "m")):
        with pytest.raises(BringsCode, match=rf"^{folder / file} must name no code, got .* `auto_map`"):
            make()
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_refused_by_the_library_asks_nobody_either(tmp_path, monkeypatch):
    """Should a configuration name code where we do not look, the library is told to run none."""
    official.write_tokenizer(tmp_path / "t")
    seen = {}
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained", lambda name, **options: seen.update(options), raising=True
    )
    PieceTokenizer(tmp_path / "t")
    assert seen == {"local_files_only": True, "trust_remote_code": False}


def test_its_files_are_copied_and_no_others(pieces, tmp_path):
    copied = pieces.save(tmp_path / "a" / "tokenizer")
    assert sorted(path.name for path in copied) == ["tokenizer.json", "tokenizer_config.json"]
    assert [path.read_bytes() for path in copied] == [(pieces.folder / path.name).read_bytes() for path in copied]
    (tmp_path / "a" / "tokenizer" / "weights.bin").write_bytes(b"0")
    again = PieceTokenizer(tmp_path / "a" / "tokenizer")
    assert {path.name for path in again.save(tmp_path / "b")} == {path.name for path in copied}
    # Over itself it stays.
    assert again.save(again.folder) == copied
    assert Path(copied[0]).stat().st_size
