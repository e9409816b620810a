"""Words of a prompt that the text encoder has never seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from studio.events import UnknownWord
from studio.timeline import nearest


def find_unknown(encoder: Any, text: str) -> list[UnknownWord]:
    """Find the words of a text that the encoder does not know, where they stand and what is close to them.

    Args:
        encoder: has `unknown_words(text) -> list of words`; its `vocabulary`, where it has one, is searched for close
            words.
        text: any text.

    Returns:
        One entry for each place, in the order of the text.
    """
    names = dict.fromkeys(str(word) for word in encoder.unknown_words(text))
    known = _vocabulary(encoder)
    found = []
    for name in names:
        close = nearest(name.lower(), known)
        for place in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            found.append(UnknownWord(word=place.group(), start=place.start(), end=place.end(), nearest=close))
    return sorted(found, key=lambda word: word.start)


def _vocabulary(encoder: Any) -> Iterable[str]:
    for holder in (encoder, getattr(encoder, "tokenizer", None)):
        words = getattr(holder, "vocabulary", None)
        if words is not None:
            return words() if callable(words) else words  # type: ignore[return-value]
    return ()


class UnknownWords(tuple[UnknownWord, ...]):
    """The unknown words of the prompt in force; call it with another text to look at that one."""

    _find: Callable[[str], list[UnknownWord]]

    def __new__(cls, text: str, find: Callable[[str], list[UnknownWord]]) -> UnknownWords:
        """Look at a text.

        Args:
            text: the prompt in force.
            find: finds the unknown words of a text.
        """
        words = super().__new__(cls, find(text))
        words._find = find
        return words

    def __call__(self, text: str) -> list[UnknownWord]:
        """The unknown words of another text."""
        return self._find(text)
