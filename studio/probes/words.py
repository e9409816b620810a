"""From text tokens to the words of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from studio.model.text import Tokenizer

__all__ = ["Word", "words_of"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word of a prompt and the text tokens it became.

    Args:
        text: The word as it was written; several words where the tokenizer joins them.
        start: Its first text token.
        stop: One past its last text token.
    """

    text: str
    start: int
    stop: int


def words_of(tokenizer: Tokenizer, prompt: str, length: int) -> tuple[Word, ...]:
    """Find the text tokens of each word of a prompt.

    The prompt is tokenized up to the end of each word; where the tokens agree with those of the whole prompt, the
    word ends there. This needs nothing of a tokenizer but its ids, whether it knows words or pieces.

    Args:
        tokenizer: The tokenizer of the text encoder; it must end each prompt with one token of its own.
        prompt: Any text, words separated by white space.
        length: Text tokens of an encoded prompt, padding included.

    Returns:
        The words in order, those beyond `length` and those without a token left out.

    Raises:
        ValueError: If `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"`length` must be at least 1, got {length}")
    parts = prompt.split()
    if not parts:
        return ()
    prefixes = [" ".join(parts[: i + 1]) for i in range(len(parts))]
    ids, mask = tokenizer(prefixes, length)
    counts = [int(row.sum()) - 1 for row in mask]  # without the end token
    whole = ids[-1].tolist()
    words: list[Word] = []
    start, pending = 0, []
    for part, row, count in zip(parts, ids.tolist(), counts, strict=True):
        pending.append(part)
        if row[:count] != whole[:count]:
            continue
        if count > start:
            words.append(Word(text=" ".join(pending), start=start, stop=count))
        start, pending = max(start, count), []
    return tuple(words)
