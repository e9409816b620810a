"""What a page may do to a timeline and its takes: operations, undo, clips, files, takes, quick prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import formats
from studio.timeline import Clip, Timeline, check_prompt, check_text, shorten
from studio.timeline.checks import MAX_BLOCKS, check_whole
from studio.timeline.operations import Operation, Paste, Replace
from studio.timeline.plain import check_keys, check_list
from studio.widgets.source import EditSource

__all__ = ["MAX_QUICK", "Desk", "check_quick"]

MAX_QUICK = 9
MAX_NAME = 40
_ENDINGS = {"json": ".json", "txt": ".txt", "longlive": ".jsonl", "scope": ".scope.json"}


class Desk:
    """Does to a source's timeline what a page asks for, and says how it went.

    Args:
        source: What makes the frames; only one with an editor can be edited.
    """

    def __init__(self, source: Any) -> None:
        self._source = source

    @property
    def editable(self) -> bool:
        """Whether the source's timeline can be edited."""
        return isinstance(self._source, EditSource)

    def history(self) -> dict[str, Any]:
        """The version of the timeline and what undo and redo would go over; empty where nothing can be edited."""
        return dict(self._source.editor.describe()["history"]) if self.editable else {}

    def takes(self) -> list[dict[str, Any]]:
        """The takes as a page shows them."""
        return takes_fields(self._source.takes) if self.editable else []

    def obey(self, kind: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a page asks for.

        Args:
            kind: "edit", "paste", "import", "export" or "take".
            message: The fields of the command.

        Returns:
            Fields of the reply: "error", a sentence or None, and where an edit would change the past, "past".

        Raises:
            ValueError: If a value makes no sense, or the source cannot be edited.
            RuntimeError: If the source is closed.
        """
        if not self.editable:
            raise ValueError(f"the timeline of `{self._source.name}` cannot be edited; open a live session")
        return getattr(self, f"_{kind}")(message)

    def _edit(self, message: Mapping[str, Any]) -> dict[str, Any]:
        asked = {name: message[name] for name in ("operation", "version", "past") if message[name] is not None}
        return self._source.editor.obey({"do": message["do"], **asked})

    def _paste(self, message: Mapping[str, Any]) -> dict[str, Any]:
        clip = Clip.from_json(message["text"])
        return self._apply(Paste(message["at"], clip, message["over"]), message)

    def _import(self, message: Mapping[str, Any]) -> dict[str, Any]:
        kind = formats.kind_of(Path(message["name"]))
        found = formats.loads(message["text"].removeprefix("\ufeff"), kind)
        own = self._source.timeline
        timeline, notes = recounted(found.timeline, own)
        reply = self._apply(Replace(timeline), message)
        return {**reply, "notes": [*found.notes, *notes]}

    def _export(self, message: Mapping[str, Any]) -> dict[str, Any]:
        kind = message["format"]
        if kind not in formats.KINDS:
            raise ValueError(f"`format` must be one of {', '.join(formats.KINDS)}, got {shorten(kind)}")
        written = formats.dumps(self._source.timeline, kind)
        return {"text": written.text, "lost": list(written.lost), "name": f"timeline{_ENDINGS[kind]}"}

    def _take(self, message: Mapping[str, Any]) -> dict[str, Any]:
        do, take, takes = message["do"], message["take"], self._source.takes
        if do == "choose":
            takes.choose(take)
        elif do == "rename":
            takes.rename(take, check_text(message["name"], "name"))
        elif do == "remove":
            takes.remove(take)
        elif do == "fork":
            takes.fork(check_whole(message["at"], "at", 0, MAX_BLOCKS), take=take)
        else:
            raise ValueError(f"`do` must be one of choose, rename, remove, fork, got {shorten(do)}")
        return {}

    def _apply(self, operation: Operation, message: Mapping[str, Any]) -> dict[str, Any]:
        return self._edit({**message, "do": "apply", "operation": operation.to_dict()})


def recounted(timeline: Timeline, own: Timeline) -> tuple[Timeline, list[str]]:
    """A timeline read from a file, counted as the source counts.

    Args:
        timeline: What was read.
        own: The source's timeline.

    Returns:
        The timeline with the same blocks, and a sentence where a block now lasts another time.
    """
    if (timeline.fps, timeline.block_latent_frames) == (own.fps, own.block_latent_frames):
        return timeline, []
    now = replace(timeline, fps=own.fps, block_latent_frames=own.block_latent_frames)
    before, after = timeline.start_seconds(2) - timeline.start_seconds(1), now.start_seconds(2) - now.start_seconds(1)
    return now, [f"the file counts blocks of {before:g} s, here they last {after:g} s; the block numbers are kept"]


def takes_fields(takes: Iterable[Any]) -> list[dict[str, Any]]:
    """The takes as a page shows them.

    Args:
        takes: As `studio.events.TakeInfo`, in the order in which they began.
    """
    names = ("number", "name", "parent", "forked_at", "blocks", "seed", "current")
    return [{name: getattr(take, name) for name in names} for take in takes]


def check_quick(candidate: object) -> tuple[tuple[str, str], ...]:
    """Check quick prompts.

    Args:
        candidate: Prompts by name, or pairs of name and prompt, or dictionaries with "name" and "prompt"; at most 9,
            as there are keys.

    Returns:
        Pairs of name and prompt.

    Raises:
        ValueError: If there are too many, or a name or prompt makes no sense.
    """
    if isinstance(candidate, Mapping):
        candidate = list(candidate.items())
    pairs = [_pair(item) for item in check_list(candidate, "quick_prompts")]
    if len(pairs) > MAX_QUICK:
        raise ValueError(f"`quick_prompts` must be at most {MAX_QUICK}, one a key, got {len(pairs)}; leave some out")
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two quick prompts are named {shorten(name)}; give each another name")
    return tuple(pairs)


def _pair(item: object) -> tuple[str, str]:
    if isinstance(item, dict):
        check_keys(item, ("name", "prompt"), "quick prompt")
        item = (item.get("name"), item.get("prompt"))
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise ValueError(f"a quick prompt is a name and a prompt, got {shorten(item)}; use {{name: prompt}}")
    name, prompt = item
    if not isinstance(name, str) or not 0 < len(check_text(name, "name").strip()) <= MAX_NAME:
        raise ValueError(f"the name of a quick prompt must have 1 to {MAX_NAME} characters, got {shorten(name)}")
    return name.strip(), check_prompt(prompt)
