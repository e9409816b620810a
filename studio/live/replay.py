"""Replay an event log: the same latents again, bit for bit on the same device and build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from studio.live.engine import Engine, Models, Order, Texts, digest_of
from studio.live.log import MAX_BYTES, Origin, TakeLog
from studio.live.origin import origin_of
from studio.live.pictures import gif_words, png_words
from studio.live.starting import unpack
from studio.shapes import VideoShape
from studio.timeline import shorten

FILMS = (".mp4", ".webm", ".mkv", ".mov")
FIRST_PICTURE, LOG_FILE = "000000.png", "log.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """What came of a replay.

    Args:
        latents: of each block, `[1, f, C, H, W]`.
        differing: numbers of the blocks whose latents are not those of the log, bit for bit.
        unknown: numbers of the blocks of which the log does not tell the latents.
        differences: what is otherwise here than where the log was made, one sentence each.
    """

    latents: list[Tensor]
    differing: tuple[int, ...]
    unknown: tuple[int, ...]
    differences: tuple[str, ...]

    def __repr__(self) -> str:
        if self.same:
            found = "the same bit for bit"
        else:
            counts = (len(self.differing), "differ"), (len(self.unknown), "not known")
            found = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"<Replay: {len(self.latents)} blocks, {found}>"

    @property
    def same(self) -> bool:
        """Whether every block is the same, bit for bit."""
        return not self.differing and not self.unknown


def replay(
    log: TakeLog, models: Models, *, check: Callable[[], None] = lambda: None, made: Callable[[int], None] | None = None
) -> Replay:
    """Make a take again from its log.

    Args:
        log: the log.
        models: the networks.
        check: called before every denoising step; it may raise to leave.
        made: called with the number of each finished block.

    Returns:
        The latents, and how they compare to those of the log.

    Raises:
        ValueError: the log is empty, names another block size than the model has, or holds given latents that do not
            fit it.
    """
    if not len(log):
        raise ValueError("the log must hold at least one block, got none")
    differences = tuple(compare(log.origin, origin_of(models)))
    texts, latents, differing, unknown = Texts(models.text), [], [], []
    engine: Engine | None = None
    units = VideoShape.of(models.config)
    for record in log:
        if record.given is not None:
            latents.append(unpack(record.given, units))
            engine = None
            if digest_of(latents[-1]) != record.latents:
                differing.append(record.block)
            continue
        if engine is None or record.resumed or record.seed != log[record.block - 1].seed:
            engine = _engine(models, texts, log, record.block, latents, check)
        block = engine.next()
        assert block is not None
        latents.append(block.block.latents)
        if not record.latents:
            unknown.append(record.block)
        elif block.digest != record.latents:
            differing.append(record.block)
        if made is not None:
            made(record.block)
    return Replay(
        latents=latents, differing=tuple(differing), unknown=tuple(unknown), differences=differences
    )  # fmt: skip


def _engine(
    models: Models, texts: Texts, log: TakeLog, block: int, latents: list[Tensor], check: Callable[[], None]
) -> Engine:
    orders: Iterator[Order] = (record.order for record in log[block:])
    engine = Engine(
        models, texts, seed=log[block].seed, order=lambda: next(orders, None), check=check, blocks=len(log),
        decode=False,
    )  # fmt: skip
    if block:
        engine.rebuild(latents, [record.order for record in log[:block]])
    return engine


def compare(there: Origin, here: Origin) -> list[str]:
    """Say what differs between where a log was made and here.

    Args:
        there: the log's.
        here: that of the networks at hand.

    Returns:
        One sentence a difference.
    """
    names = {"studio": "studio version", "torch": "torch version", "dtype": "type of the weights"}
    found = []
    for name in ("model", "weights", "config", "dtype", "device", "studio", "torch"):
        one, other = getattr(there, name), getattr(here, name)
        if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
            continue
        what = names.get(name, name)
        detail = "" if name == "config" else f": {shorten(one)} there, {shorten(other)} here"
        found.append(f"another {what}{detail}")
    return found


def read_log(path: str | Path) -> TakeLog:
    """Read a log from a file of its own, or from a film, pictures or latents that carry it.

    Args:
        path: a log in JSON, a film, a GIF, a folder of PNG files or the first of them, or latents in .safetensors.

    Returns:
        The log.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no log.
    """
    path = Path(path)
    if path.is_dir():
        path = path / LOG_FILE if (path / LOG_FILE).is_file() else path / FIRST_PICTURE
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {shorten(str(path))}; check the path")
    try:
        return TakeLog.from_json(_text_of(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} must be UTF-8 text, a film or latents; is it a log?") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _text_of(path: Path) -> str:
    tags: dict[str, Any]
    if path.suffix.lower() in FILMS:
        import av
        import av.error

        try:
            with av.open(str(path)) as film:
                tags = {name.lower(): text for name, text in film.metadata.items()}
        except av.error.FFmpegError as error:
            raise ValueError(f"not a film: {error}") from None
    elif path.suffix.lower() in (".gif", ".png"):
        tags = (gif_words if path.suffix.lower() == ".gif" else png_words)(path)
    elif path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                tags = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"not latents: {error}") from None
    elif path.stat().st_size > MAX_BYTES:
        raise ValueError(f"a log has at most {MAX_BYTES} bytes")
    else:
        return path.read_bytes().decode("utf-8-sig")
    for name in ("log", "description"):
        if name in tags:
            return tags[name]
    raise ValueError("it carries no log; was it written by this studio?")


def check_model(log: TakeLog, models: Models) -> None:
    """Check that networks can make a log's blocks at all.

    Args:
        log: the log.
        models: the networks.

    Raises:
        ValueError: they count their frames in another way.
    """
    units = VideoShape.of(models.config)
    for record in log:
        if record.first_frame != units.first_frame(record.block):
            raise ValueError(
                f"block {record.block} starts at frame {record.first_frame} in the log and at frame "
                f"{units.first_frame(record.block)} with `{models.config.name}`; replay with `{log.origin.model}`"
            )
