"""Checks of single values, shared by every door through which timelines and their parts come in."""

from __future__ import annotations

import difflib
import math
import operator
import re
import unicodedata
from typing import Any

from studio.config import POLICIES
from studio.shapes import MAX_BLOCKS as MAX_BLOCKS

MAX_PROMPT = 2000
MAX_SEED = 2**53 - 1  # the largest integer that every reader of JSON, browsers included, keeps exactly
MAX_WEIGHT = 1e6
EXAMPLE = "a red fox runs in the snow"
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_LAYOUT = "\n\r\t"


def shorten(value: object, limit: int = 60) -> str:
    """Show a value in an error message without flooding the screen.

    Args:
        value: anything.
        limit: characters to keep.

    Returns:
        Its `repr`, cut in the middle.
    """
    try:
        text = repr(value[: 2 * limit] if isinstance(value, (str, bytes)) else value)
    except ValueError:  # Python writes no whole number of some thousand digits
        text = f"a {type(value).__name__} too large to be shown"
    if isinstance(value, (str, bytes)) and len(value) > 2 * limit:
        return f"{text[: limit - 10]}…{text[0]} ({len(value)} characters)"
    return text if len(text) <= limit else f"{text[: limit - 10]}…{text[-5:]}"


def nearest(word: str, known: Any, cutoff: float = 0.6) -> str | None:
    """Find the known word closest to a mistyped one.

    Args:
        word: the word as typed.
        known: the words to choose from.
        cutoff: least similarity, in [0, 1].

    Returns:
        The closest word, or None when nothing is similar enough.
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def check_text(value: object, name: str, limit: int = MAX_PROMPT) -> str:
    """Check that a value is text that can be stored, sent and shown.

    Args:
        value: the candidate.
        name: what to call it in the error.
        limit: most characters.

    Returns:
        The text, unchanged.

    Raises:
        ValueError: it is no string, too long, or holds control characters or half a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {shorten(value)} ({type(value).__name__}); put it in quotes")
    if len(value) > limit:
        raise ValueError(f"`{name}` must have at most {limit} characters, got {shorten(value)}; shorten it")
    for place, character in enumerate(value):
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and character not in _LAYOUT):
            raise ValueError(
                f"`{name}` must not hold control characters, got U+{ord(character):04X} at character {place} of "
                f"{shorten(value)}; remove it"
            )
    return value


def check_prompt(prompt: object, name: str = "prompt") -> str:
    """Check a prompt; every door through which prompts come in uses this.

    Any language, emoji and right-to-left text are fine.

    Args:
        prompt: the candidate.
        name: what to call it in the error.

    Returns:
        The prompt, unchanged.

    Raises:
        ValueError: it is no string, empty, longer than `MAX_PROMPT` characters, or holds control characters.
    """
    text = check_text(prompt, name)
    if not text.strip():
        raise ValueError(f'`{name}` must not be empty, got {shorten(text)}; write what to see, as "{EXAMPLE}"')
    return text


def check_choice(value: object, name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
    """Check an option that is one of a few words or None.

    Args:
        value: the candidate.
        name: what to call it in the error.
        choices: the allowed words.
        default: what None stands for in the error's remedy.

    Returns:
        The value.

    Raises:
        ValueError: any other value.
    """
    if value is None or (isinstance(value, str) and value in choices):
        return value
    allowed = ", ".join(f'"{choice}"' for choice in choices)
    near = nearest(value, choices) if isinstance(value, str) else None
    remedy = f'did you mean "{near}"?' if near else f"leave it out for {default or 'the default'}"
    raise ValueError(f"`{name}` must be one of {allowed}, got {shorten(value)}; {remedy}")


def check_policy(policy: object, name: str = "policy") -> str | None:
    """Check a switch policy: "recache", "keep", "clear", or None for the session's own.

    Args:
        policy: the candidate.
        name: what to call it in the error.

    Returns:
        The policy.

    Raises:
        ValueError: any other value.
    """
    return check_choice(policy, name, POLICIES, "the session's policy")


def check_whole(value: object, name: str, low: int, high: int, remedy: str = "") -> int:
    """Check a whole number within bounds.

    Args:
        value: the candidate; integers of numpy are fine, floats and truth values are not.
        name: what to call it in the error.
        low: smallest value.
        high: largest value.
        remedy: what to do instead.

    Returns:
        The number as an int.

    Raises:
        ValueError: not a whole number, or out of bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if not remedy and isinstance(value, float) and low <= value <= high:
            remedy = f"use {int(value)}"
        message = f"`{name}` must be a whole number from {low} to {high}, got {shorten(value)}"
        raise ValueError(message + (f"; {remedy}" if remedy else "")) from None
    if not low <= number <= high:
        remedy = remedy or f"use {low if number < low else high}"
        raise ValueError(f"`{name}` must be a whole number from {low} to {high}, got {shorten(number)}; {remedy}")
    return number


def check_seed(seed: object, name: str = "seed") -> int:
    """Check a seed: a whole number from 0 to 2^53 - 1.

    Args:
        seed: the candidate.
        name: what to call it in the error.

    Returns:
        The seed as an int.

    Raises:
        ValueError: not such a number.
    """
    return check_whole(seed, name, 0, MAX_SEED)


def check_rate(fps: object) -> None:
    """Check a frame rate.

    Args:
        fps: pixel frames a second.

    Raises:
        ValueError: not a finite number above 0 and at most 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000:
        raise ValueError(f"`fps` must be a number above 0 and at most 1000, got {shorten(fps)}; use 16")


def check_seconds(value: object, name: str) -> float:
    """Check a time in seconds.

    Args:
        value: the candidate.
        name: what to call it in the error.

    Returns:
        The time as a float.

    Raises:
        ValueError: not a finite number from 0 up.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise TypeError
        return float(value)
    except (TypeError, OverflowError):
        raise ValueError(f"`{name}` must be a finite number of seconds from 0 up, got {shorten(value)}") from None


def check_colour(value: object, name: str = "colour") -> None:
    """Check a colour, "#rgb" or "#rrggbb", or None.

    Args:
        value: the candidate.
        name: what to call it in the error.

    Raises:
        ValueError: any other value.
    """
    if value is not None and not (isinstance(value, str) and _COLOUR.fullmatch(value)):
        raise ValueError(f'`{name}` must look like "#e69f00", got {shorten(value)}; or leave it out')


def check_weight(value: object, name: str = "weight") -> float:
    """Check the weight of a prompt in a blend.

    Args:
        value: the candidate.
        name: what to call it in the error.

    Returns:
        The weight as a float.

    Raises:
        ValueError: not a number from 0 to `MAX_WEIGHT`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WEIGHT:
        raise ValueError(f"`{name}` must be a number from 0 to {MAX_WEIGHT:g}, got {shorten(value)}; use 1")
    return float(value)
