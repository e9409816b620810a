"""Prompt embeddings on disk: a prompt is encoded once, whoever asks for it later and in which process.

An embedding's name is a hash of everything it depends on: the encoder's files and sizes, the tokenizer and the prompt.
So a changed encoder never meets an old embedding, and the encoder need not be in memory while all prompts are known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.config import TextConfig, to_dict
from studio.model.sources import Source
from studio.model.text import PieceTokenizer, TextEncoder, Tokenizer
from studio.writing import written

__all__ = ["CachedText", "EmbeddingStore", "cache_folder", "fingerprint"]

FOLDER = "STUDIO_CACHE"
_LIMIT = 2**30
_PROBE = 2**16
_CHUNK = 2**20


def cache_folder() -> Path:
    """The folder named by STUDIO_CACHE, else the user's own cache folder."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    # The user's own folder may be unknown, so it is asked for last.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longlive-studio"


def fingerprint(config: TextConfig, source: Source, tokenizer: Path, how: str = "") -> str:
    """Tell one text encoder from every other without reading all of it.

    Args:
        config: Its sizes.
        source: Its tensors; names, shapes, types and samples of each file count.
        tokenizer: Its tokenizer's file or folder, all of which counts; a folder's way to clean prompts as well.
        how: What else changes its results, as its type and quantisation.

    Returns:
        A hexadecimal hash.

    Raises:
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps([to_dict(config), how], sort_keys=True).encode())
    if tokenizer.is_dir():
        digest.update(f"{PieceTokenizer.CLEANING}\n".encode())
    for name, entry in sorted(source.entries.items()):
        digest.update(f"{name} {entry.shape} {entry.dtype}\n".encode())
    for file in source.files:
        _sample(digest, file)
    for file in sorted(tokenizer.rglob("*")) if tokenizer.is_dir() else (tokenizer,):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


class EmbeddingStore:
    """A folder of embeddings of one encoder.

    Args:
        folder: Where they are; it is made at the first one.
        encoder: The encoder's fingerprint.
        limit: Bytes to keep in the folder; the ones unused for longest go first.

    Raises:
        ValueError: If the limit is negative.
    """

    def __init__(self, folder: Path, encoder: str, *, limit: int = _LIMIT) -> None:
        if limit < 0:
            raise ValueError(f"`limit` must be at least 0 bytes, got {limit}; 0 keeps nothing")
        self._folder, self._encoder, self._limit = folder, encoder, limit

    def path(self, prompt: str) -> Path:
        """The file of a prompt's embedding, whether it is there or not."""
        # A lone surrogate is no text, yet a prompt may hold one.
        key = hashlib.sha256(self._encoder.encode() + b"\n" + prompt.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{key}.safetensors"

    def get(self, prompt: str) -> Tensor | None:
        """The embedding `[L, dim]` of a prompt on the CPU, zero rows cut off; None where it is not there or damaged."""
        path = self.path(prompt)
        try:
            found = load_file(path)["text"]
            os.utime(path)
        except (OSError, KeyError, SafetensorError):
            return None
        return found

    def put(self, prompt: str, text: Tensor) -> None:
        """Keep an embedding; a folder that cannot be written is no reason to stop.

        Args:
            prompt: What was encoded.
            text: `[L, dim]`.
        """
        path = self.path(prompt)
        with suppress(OSError, SafetensorError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with written(path) as aside:
                save_file({"text": text.detach().cpu().contiguous()}, aside)
            self._trim()

    def _trim(self) -> None:
        files = [(file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.glob("*.safetensors")]
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self._limit:
                return
            file.unlink(missing_ok=True)
            total -= size


class CachedText:
    """A text encoder that asks the store first and loads the encoder only for prompts that are new.

    It can be used wherever a `TextEncoder` encodes.

    Args:
        config: The encoder's sizes.
        tokenizer: The encoder's tokenizer.
        store: The embeddings on disk.
        load: Loads the encoder.
        device: Where embeddings go.
        dtype: Their type.
        keep: Whether the encoder stays in memory after it was needed; else it is let go at once.
    """

    def __init__(
        self,
        config: TextConfig,
        tokenizer: Tokenizer | None,
        store: EmbeddingStore,
        load: Callable[[], TextEncoder],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._store, self._load, self._keep = store, load, keep
        self._device, self._dtype = torch.device(device), dtype
        self._encoder: TextEncoder | None = None

    @property
    def loaded(self) -> bool:
        """Whether the encoder is in memory."""
        return self._encoder is not None

    def to(self, device: torch.device | str) -> CachedText:
        """Send embeddings to a device from now on; the encoder stays where it is loaded.

        Returns:
            The encoder itself.
        """
        self._device = torch.device(device)
        return self

    def unload(self) -> None:
        """Let go of the encoder's memory."""
        self._encoder = None

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of prompts, as `TextEncoder.encode` gives them.

        Args:
            prompts: One string a row; any text.

        Returns:
            `[B, text_len, dim]`, zero after each prompt's last token.
        """
        found = {prompt: self._store.get(prompt) for prompt in dict.fromkeys(prompts)}
        for prompt in [prompt for prompt, text in found.items() if not self._fits(text)]:
            text = found[prompt] = self._encoded(prompt)
            self._store.put(prompt, _valid_rows(text))
        if not self._keep:
            self.unload()
        rows = torch.zeros(len(prompts), self.config.text_len, self.config.dim, dtype=self._dtype, device=self._device)
        for row, prompt in enumerate(prompts):
            text = found[prompt]
            assert text is not None
            rows[row, : len(text)] = text.to(self._device, self._dtype)
        return rows

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the encoder was never taught, in order, each once."""
        return self.tokenizer.unknown_words(text) if self.tokenizer is not None else []

    def _fits(self, text: Tensor | None) -> bool:
        return (
            text is not None
            and text.dim() == 2
            and text.shape[1] == self.config.dim
            and len(text) <= (self.config.text_len)
        )

    def _encoded(self, prompt: str) -> Tensor:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder.encode([prompt])[0].cpu()


def _valid_rows(text: Tensor) -> Tensor:
    """The rows up to the last one that is not zero; most of a short prompt's rows are padding."""
    used = text.any(dim=1).nonzero()
    return text[: int(used[-1]) + 1] if len(used) else text[:1]


def _sample(digest: hashlib._Hash, file: Path) -> None:
    """Size, head, tail and a thousandth in between of a file: changes of weights touch all of it."""
    size = file.stat().st_size
    digest.update(f"{size}\n".encode())
    with file.open("rb") as opened:
        for start in range(0, size, max(_CHUNK, size // 256)):
            opened.seek(start)
            digest.update(opened.read(_PROBE))
        opened.seek(max(0, size - _PROBE))
        digest.update(opened.read(_PROBE))
