"""Timelines in files of any of the formats, with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.formats import longlive, native, scope, text
from studio.timeline.checks import check_choice, shorten
from studio.timeline.value import Timeline
from studio.writing import check_place, written

MAX_BYTES = 16 * 2**20
KINDS = ("json", "txt", "longlive", "scope")
ENDINGS = {".json": "json", ".txt": "txt", ".jsonl": "longlive"}


@dataclass(frozen=True)
class Read:
    """A timeline that was read.

    Args:
        timeline: the timeline.
        notes: what was moved, passed over or taken for granted, one sentence each.
        kind: the format it was in.
    """

    timeline: Timeline
    notes: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Written:
    """A timeline as text.

    Args:
        text: what stands in the file.
        lost: what the format cannot hold of it, a few words each.
    """

    text: str
    lost: tuple[str, ...]


def loads(source: str, kind: str = "json", *, switches: Sequence[int] | None = None, video: int = 0) -> Read:
    """Read a timeline from text.

    Args:
        source: the text.
        kind: one of `KINDS`; "json" also recognises Scope's files.
        switches: latent frames of the switches, for "longlive".
        video: which video, for "longlive".

    Returns:
        The timeline with a report.

    Raises:
        ValueError: no such format, content that makes no sense, or an option that the format does not have.
    """
    kind = _known(kind)
    if kind != "longlive" and (switches is not None or video):
        raise ValueError(f'`switches` and `video` belong to "longlive", got them for "{kind}"; leave them out')
    if kind == "txt":
        return Read(text.from_text(source), (), kind)
    if kind == "longlive":
        timeline, notes = longlive.from_longlive(source, switches=switches, video=video)
        return Read(timeline, tuple(notes), kind)
    if kind == "scope" or scope.is_scope(native.parse(source)):
        timeline, notes = scope.from_scope(source)
        return Read(timeline, tuple(notes), "scope")
    return Read(native.from_json(source), (), "json")


def dumps(timeline: Timeline, kind: str = "json") -> Written:
    """Write a timeline as text.

    Args:
        timeline: what to write.
        kind: one of `KINDS`.

    Returns:
        The text with a report.

    Raises:
        ValueError: no such format, or a prompt that it cannot hold.
    """
    kind = _known(kind)
    if kind == "json":
        return Written(native.to_json(timeline), ())
    if kind == "txt":
        return Written(text.to_text(timeline), text.lost_in_text(timeline))
    written, lost = longlive.to_longlive(timeline) if kind == "longlive" else scope.to_scope(timeline)
    return Written(written, tuple(lost))


def read(path: str | Path, kind: str | None = None, *, switches: Sequence[int] | None = None, video: int = 0) -> Read:
    """Read a timeline from a file.

    Args:
        path: the file.
        kind: one of `KINDS`; None goes by the file's ending and, for JSON, by what is in it.
        switches: latent frames of the switches, for "longlive".
        video: which video, for "longlive".

    Returns:
        The timeline with a report.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, not UTF-8, too large, or content that makes no sense; the message names the file.
    """
    path = Path(path)
    kind = kind_of(path, kind)
    if not path.exists():
        raise FileNotFoundError(f"there is no timeline {shorten(str(path))}; check the path")
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} must be a file of at most {MAX_BYTES} bytes; is it a timeline?")
    try:
        return loads(path.read_bytes().decode("utf-8-sig"), kind, switches=switches, video=video)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path.name} must be UTF-8 text, got byte {byte:#x}; save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def load(path: str | Path, kind: str | None = None) -> Timeline:
    """Read a timeline from a file, without the report; see `read`."""
    return read(path, kind).timeline


def save(timeline: Timeline, path: str | Path, kind: str | None = None) -> tuple[str, ...]:
    """Write a timeline to a file, whole or not at all.

    Args:
        timeline: what to write.
        path: the file; replaced when it exists.
        kind: one of `KINDS`; None goes by the file's ending.

    Returns:
        What the format cannot hold, a few words each.

    Raises:
        FileExistsError: it is a folder.
        FileNotFoundError: its folder does not exist.
        ValueError: another ending, or a prompt that the format cannot hold.
    """
    path = Path(path)
    kind = kind_of(path, kind)
    check_place(path, force=True, remedy="replace it")
    found = dumps(timeline, kind)
    with written(path) as aside:
        aside.write_text(found.text, encoding="utf-8")
    return found.lost


def _known(kind: object) -> str:
    """Check the name of a format; None stands for the studio's JSON."""
    return check_choice(kind, "kind", KINDS, '"json"') or "json"


def kind_of(path: Path, kind: str | None = None) -> str:
    """The format of a file by its ending.

    Args:
        path: the file.
        kind: the format, where it is known.

    Raises:
        ValueError: neither says it.
    """
    kind = kind or ENDINGS.get(path.suffix.lower())
    if kind not in KINDS:
        raise ValueError(
            f"a timeline is a .json or .txt file, or a .jsonl one of LongLive, got {shorten(path.name)}; "
            f"name its kind, one of {', '.join(KINDS)}, or rename it"
        )
    return kind
