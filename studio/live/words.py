"""Words of a prompt that the text encoder has never seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from studio.events import UnknownWord
from studio.timeline import nearest

_WHOLE = r"(?<![^\W_]){}(?![^\W_])"


def find_unknown(encoder: Any, text: str) -> list[UnknownWord]:
    """Find the words of a text that the encoder does not know, where they stand and what is close to them.

    Args:
        encoder: has `unknown_words(text) -> list of words`; the `words` of its `tokenizer`, where it has them, are
            searched for close ones.
        text: any text.

    Returns:
        One entry for each place, in the order of the text.
    """
    known = getattr(getattr(encoder, "tokenizer", None), "words", ())
    found = []
    for name in dict.fromkeys(encoder.unknown_words(text)):
        close = _close(name.lower(), known)
        places = [place.span() for place in re.finditer(_WHOLE.format(re.escape(name)), text, re.IGNORECASE)]
        # A word that the encoder normalised may not stand in the text as it is; it is reported without its place.
        for start, end in places or [(0, 0)]:
            found.append(UnknownWord(word=text[start:end] or name, start=start, end=end, nearest=close))
    return sorted(found, key=lambda word: word.start)


def _close(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant, most likely: with another first letter it must be all the closer."""
    known = list(known)
    return nearest(word, [one for one in known if one[:1] == word[:1]], cutoff=0.5) or nearest(word, known, cutoff=0.75)


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
