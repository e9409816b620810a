"""The text encoder: umt5 by transformers, and the miniature's word tokenizer.

Prompts become `[B, text_len, dim]` embeddings whose rows after the prompt's last token are zero, as Wan2.1 feeds them.

Source: UMT5 (Chung et al., 2023, arXiv:2304.09151); Wan2.1, `wan/modules/t5.py`.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from studio.config import TextConfig
from studio.writing import written

__all__ = [
    "BringsCode",
    "TextEncoder",
    "Tokenizer",
    "WordTokenizer",
    "from_official_keys",
    "from_official_name",
    "to_official_keys",
    "to_official_name",
]


class Tokenizer(Protocol):
    """Turns prompts into token ids."""

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, length]` int64, padded with zeros and cut at `length`."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the tokenizer does not know, in order, each once."""
        ...


class WordTokenizer:
    """A lower-case word vocabulary; any string is welcome and unknown words become one token.

    Args:
        words: The vocabulary, without the special tokens.

    Raises:
        ValueError: If a word is empty or appears twice.

    Attributes:
        words: The vocabulary in the order of the ids, which begin at 3.
    """

    PAD, END, UNKNOWN = 0, 1, 2
    _WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*", re.UNICODE)

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        if len(set(self.words)) != len(self.words) or not all(self.words):
            raise ValueError("`words` must be different and not empty; remove the doubles")
        self._ids = {word: index for index, word in enumerate(self.words, start=3)}

    @classmethod
    def load(cls, path: Path | str) -> WordTokenizer:
        """Read a `tokenizer.json` written by `save`.

        Raises:
            ValueError: If the file holds no word vocabulary.
        """
        from tokenizers import Tokenizer as Backend

        vocabulary = Backend.from_file(str(path)).get_vocab()
        ordered = sorted(vocabulary, key=lambda word: vocabulary[word])
        if ordered[:3] != ["<pad>", "</s>", "<unk>"]:
            raise ValueError(f"{path} holds no word vocabulary; it must begin with <pad>, </s>, <unk>")
        return cls(ordered[3:])

    def save(self, path: Path | str) -> None:
        """Write the vocabulary in the `tokenizers` library's format."""
        from tokenizers import Tokenizer as Backend
        from tokenizers.models import WordLevel
        from tokenizers.normalizers import Lowercase
        from tokenizers.pre_tokenizers import Whitespace

        vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *self.words))}
        backend = Backend(WordLevel(vocabulary, unk_token="<unk>"))
        backend.normalizer = Lowercase()  # type: ignore[assignment]
        backend.pre_tokenizer = Whitespace()  # type: ignore[assignment]
        backend.save(str(path))

    @property
    def size(self) -> int:
        """Entries an embedding table needs."""
        return len(self.words) + 3

    def split(self, text: str) -> list[str]:
        """The words of a text, in lower case, without punctuation."""
        return self._WORD.findall(unicodedata.normalize("NFKC", text).lower())

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """See `Tokenizer`; each prompt ends with an end token."""
        ids = torch.zeros(len(prompts), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            tokens = [self._ids.get(word, self.UNKNOWN) for word in self.split(prompt)][: length - 1] + [self.END]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def unknown_words(self, text: str) -> list[str]:
        """See `Tokenizer`."""
        return list(dict.fromkeys(word for word in self.split(text) if word not in self._ids))


class BringsCode(ValueError):
    """A model's folder names Python code of its own, which is never run."""


class PieceTokenizer:
    """The sentencepiece tokenizer of the big checkpoints, from a local folder; it knows every word.

    Args:
        folder: Folder with the tokenizer's files (`google/umt5-xxl` of the official layout).

    Raises:
        BringsCode: If the folder names code of its own for its tokenizer.

    Attributes:
        folder: Where its files are.
    """

    # Kept embeddings are of one way to clean a prompt, see `studio.model.embeddings.fingerprint`.
    CLEANING = "ftfy, entities, white space"
    _SPACE = re.compile(r"\s+")
    _FILES = (".json", ".model", ".txt", ".jinja")

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoTokenizer

        self.folder = Path(folder)
        for name in ("tokenizer_config.json", "config.json"):
            _refuse_code(self.folder / name)
        self._backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)

    def clean(self, prompt: str) -> str:
        """Mend a prompt as Wan2.1 does before it is cut into pieces.

        Args:
            prompt: Any text.

        Returns:
            The text with straight quotes, with letters that were read in a wrong encoding put right, with entities of
            HTML as what they stand for, and with single spaces.

        Source: Wan2.1, `wan/modules/tokenizers.py`.
        """
        import ftfy

        mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
        return self._SPACE.sub(" ", mended.strip()).strip()

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """See `Tokenizer`."""
        clean = [self.clean(prompt) for prompt in prompts]
        batch = self._backend(clean, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    def require_files(self) -> list[Path]:
        """The files that make it.

        Raises:
            FileNotFoundError: If its folder is gone.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} with the tokenizer's files is gone; put it back, or load anew")
        return sorted(file for file in self.folder.iterdir() if file.suffix in self._FILES and file.is_file())

    def save(self, folder: Path | str) -> list[Path]:
        """Copy its files.

        Args:
            folder: Where to; it is made. Files of the same names are replaced.

        Returns:
            The files there.

        Raises:
            FileNotFoundError: If its own folder is gone.
        """
        folder, files = Path(folder), self.require_files()
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            target = folder / file.name
            if not (target.exists() and target.samefile(file)):
                with written(target) as aside:
                    shutil.copyfile(file, aside)
        return [folder / file.name for file in files]

    def unknown_words(self, text: str) -> list[str]:
        """See `Tokenizer`; pieces leave nothing unknown."""
        return []


def _refuse_code(file: Path) -> None:
    """Refuse a configuration that names code; the library would ask on the terminal whether to run it."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # The library says better what is missing or damaged.
    if isinstance(told, dict) and told.get("auto_map"):
        raise BringsCode(
            f"{file} must name no code, got Python of its own in `auto_map`, which is never run; use the files of "
            "google/umt5-xxl, or take `auto_map` out where you know that the tokenizer needs no code"
        )


class TextEncoder(nn.Module):
    """Encodes prompts by a umt5 encoder.

    Args:
        config: Sizes of the encoder.
        tokenizer: Turns prompts into ids; `None` for an encoder that is only fed ids.

    Attributes:
        output: Where embeddings are sent, for an encoder that computes elsewhere; None: they stay where they are made.
    """

    def __init__(self, config: TextConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        from transformers import UMT5Config, UMT5EncoderModel

        self.config, self.tokenizer = config, tokenizer
        self.output: torch.device | None = None
        self.encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=config.vocab,
                d_model=config.dim,
                d_kv=config.attn_dim // config.heads,
                d_ff=config.ffn_dim,
                num_layers=config.layers,
                num_heads=config.heads,
                relative_attention_num_buckets=config.buckets,
                relative_attention_max_distance=config.max_distance,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                layer_norm_epsilon=1e-6,
                pad_token_id=0,
                eos_token_id=1,
            )
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode token ids.

        Args:
            ids: `[B, L]` int64.
            mask: `[B, L]`, 1 where a token stands.

        Returns:
            `[B, L, dim]`, zero where no token stands.
        """
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden * mask.unsqueeze(-1).to(hidden.dtype)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, text_len]` of prompts, on the encoder's device.

        Raises:
            RuntimeError: If the encoder has no tokenizer.
        """
        if self.tokenizer is None:
            raise RuntimeError("this text encoder has no tokenizer; load the model with its tokenizer files")
        device = next(self.parameters()).device
        ids, mask = self.tokenizer(prompts, self.config.text_len)
        return ids.to(device), mask.to(device)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts.

        Args:
            prompts: One string a row; any text.

        Returns:
            `[B, text_len, dim]`, zero after each prompt's last token.

        Raises:
            RuntimeError: If the encoder has no tokenizer.
        """
        text = self(*self.tokenize(prompts))
        return text if self.output is None else text.to(self.output)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the encoder was never taught, in order, each once."""
        return self.tokenizer.unknown_words(text) if self.tokenizer is not None else []


# Official name -> name inside one transformers layer.
_LAYER_KEYS = {
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm1.weight": "layer.0.layer_norm.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
_TOP_KEYS = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}


def from_official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official umt5 state dict to `TextEncoder`'s keys.

    Args:
        state: Tensors under the names of Wan2.1's `models_t5_umt5-xxl-enc-bf16.pth`.

    Returns:
        The same tensors, the tied embedding under both its names.

    Raises:
        ValueError: If a key is unknown.
    """
    renamed: dict[str, Any] = {from_official_name(key): value for key, value in state.items()}
    if "encoder.shared.weight" in renamed:
        renamed["encoder.encoder.embed_tokens.weight"] = renamed["encoder.shared.weight"]
    return renamed


def from_official_name(name: str) -> str:
    """The name in `TextEncoder`'s state dict of one of the official encoder's tensors.

    Args:
        name: As in Wan2.1's `models_t5_umt5-xxl-enc-bf16.pth`.

    Raises:
        ValueError: If the name is unknown.
    """
    parts = name.split(".", 2)
    if name in _TOP_KEYS:
        return f"encoder.{_TOP_KEYS[name]}"
    if parts[0] == "blocks" and len(parts) == 3 and parts[2] in _LAYER_KEYS:
        return f"encoder.encoder.block.{parts[1]}.{_LAYER_KEYS[parts[2]]}"
    raise ValueError(f"{name!r} is not a key of the official umt5 encoder; is this the right file?")


def to_official_name(name: str) -> str | None:
    """The official name of one of `TextEncoder`'s tensors; None for the second name of the tied embedding.

    Args:
        name: As in `TextEncoder`'s state dict.
    """
    top = {f"encoder.{mine}": official for official, mine in _TOP_KEYS.items()}
    if name in top:
        return top[name]
    if name == "encoder.encoder.embed_tokens.weight":
        return None
    if not name.startswith("encoder.encoder.block."):
        return name
    index, inner = name.removeprefix("encoder.encoder.block.").split(".", 1)
    layer = {mine: official for official, mine in _LAYER_KEYS.items()}
    return f"blocks.{index}.{layer.get(inner, inner)}"


def to_official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `TextEncoder`'s state dict to the official names; the inverse of `from_official_keys`."""
    named = ((to_official_name(key), value) for key, value in state.items())
    return {name: value for name, value in named if name is not None}
