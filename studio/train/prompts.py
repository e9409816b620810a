"""Prompts for training without pictures: pairs, each a function of its index, so that a position is a number."""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from studio.train import draws
from studio.world import ATTRIBUTES, SceneBatch, switched

__all__ = ["GivenPrompts", "PromptList", "PromptPair", "Prompts", "WorldPrompts", "checked_source", "read_prompts"]

PromptPair = tuple[str, str]


class Prompts(Protocol):
    """An endless source of prompt pairs."""

    def __call__(self, index: int) -> PromptPair:
        """The prompt of a video and the one it may switch to, for the video of that index."""
        ...


GivenPrompts = Prompts | Iterable[str | PromptPair]


class WorldPrompts:
    """Captions of the miniature's world; the second one changes one attribute or more of the same scene.

    Args:
        seed: Seed of everything drawn.
        split: Which combinations of attributes are named: "train", "held_out" or "all".
    """

    def __init__(self, seed: int = 0, split: str = "train") -> None:
        self.seed, self.split = seed, split

    def __call__(self, index: int) -> PromptPair:
        """See `Prompts`."""
        source = draws.generator(self.seed, "world", index)
        before = SceneBatch.sample(1, source, split=self.split)
        count = int(torch.randint(1, len(ATTRIBUTES) + 1, (), generator=source))
        names = [list(ATTRIBUTES)[i] for i in torch.randperm(len(ATTRIBUTES), generator=source)[:count].tolist()]
        after = switched(before, names, source)
        return before.captions(draws.key(self.seed, index))[0], after.captions(draws.key(self.seed, index, 1))[0]


class PromptList:
    """Given prompts in an order drawn anew for every pass over them.

    A lone prompt switches to another one of the list.

    Args:
        prompts: Strings, or pairs of strings.
        seed: Seed of the order.

    Raises:
        ValueError: If there is none, or one is empty or no text.
    """

    def __init__(self, prompts: Iterable[str | PromptPair], seed: int = 0) -> None:
        if isinstance(prompts, (str, os.PathLike)):
            given = str(prompts)
            raise ValueError(
                f"`prompts` must be texts, got the one text {given[:80]!r}; use [{given[:20]!r}, ...], "
                "or name a file of prompts in the configuration"
            )
        self.pairs = [_checked(entry, number) for number, entry in enumerate(prompts, start=1)]
        if not self.pairs:
            raise ValueError("`prompts` must hold at least one prompt, got none")
        self.seed = seed
        self._order = functools.lru_cache(maxsize=4)(self._shuffled)

    def __call__(self, index: int) -> PromptPair:
        """See `Prompts`."""
        turn, place = divmod(index, len(self.pairs))
        order = self._order(turn)
        first, second = self.pairs[order[place]]
        return first, second if second is not None else self.pairs[order[place - 1]][0]

    def _shuffled(self, turn: int) -> list[int]:
        order = list(range(len(self.pairs)))
        random.Random(draws.key(self.seed, "order", turn)).shuffle(order)
        return order


def checked_source(source: Prompts) -> Prompts:
    """A source whose every answer is looked at before it is used.

    Args:
        source: Gives a pair of prompts for a video's index.

    Returns:
        The same source; it raises ValueError for an answer that is no pair of texts, naming the index.
    """

    def checked(index: int) -> PromptPair:
        given = source(index)
        first, second = (None, None) if isinstance(given, str) else _checked(given, index)
        if first is None or second is None:
            wanted = "a pair of texts, a prompt and what it may switch to"
            raise ValueError(f"`prompts({index})` must be {wanted}, got {given!r}")
        return first, second

    return checked


def read_prompts(path: Path | str, seed: int = 0, *, after: Path | str | None = None) -> PromptList:
    """Read a text file of one prompt a line, or a `.jsonl` file of a string, a pair or {"prompts": [...]} a line.

    Args:
        path: The file, in UTF-8; empty lines are left out.
        seed: Seed of the order.
        after: Such a file of the prompts that they switch to, line by line, as LongLive keeps them; `None` for none.

    Returns:
        The prompts.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a line is bad or has no partner, naming its number, or a file has no lines of prompts.
    """
    entries = _lines(path)
    if after is not None:
        second = _lines(after)
        lone = min(entries.keys() ^ second.keys(), default=None)
        if lone is not None:
            there, missing = (path, after) if lone in entries else (after, path)
            raise ValueError(f"{there}, line {lone}: {missing} must have a prompt in the same line, got none")
        for number in entries:
            for name, (_, switch) in ((path, entries[number]), (after, second[number])):
                if switch is not None:
                    raise ValueError(f"{name}, line {number}: one prompt is wanted beside a second file, got a pair")
        entries = {number: (entries[number][0], second[number][0]) for number in entries}
    return PromptList([pair if pair[1] is not None else pair[0] for pair in entries.values()], seed)


def _lines(path: Path | str) -> dict[int, tuple[str, str | None]]:
    """The prompts of a file by the numbers of their lines."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name a .txt or .jsonl file of prompts")
    if path.suffix.lower() == ".json":
        raise ValueError(f"{path} must have one prompt a line; name a .txt or .jsonl file of prompts")
    parse = _parsed if path.suffix.lower() == ".jsonl" else str.strip
    try:
        # Lines as an editor counts them; a prompt may hold other separators.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error})") from error
    entries = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries[number] = _checked(parse(line), number)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return entries


def _parsed(line: str) -> Any:
    value = json.loads(line)
    if isinstance(value, dict):
        value = value.get("prompts", value.get("prompt"))
    return value


def _checked(entry: str | Sequence[str], number: int) -> tuple[str, str | None]:
    pair = (entry, None) if isinstance(entry, str) else entry
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"prompt {number} must be a text or a pair of texts, got {entry!r}")
    first, second = pair
    for text in (first, "-" if second is None else second):
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise ValueError(f"prompt {number} must be a text that is not empty, got {text!r}")
    return first, second
