"""Replay an event log: the same latents again, bit for bit on the same device and build."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from studio.live.engine import Engine, Models, Order, Texts, digest_of
from studio.live.log import MAX_BYTES, BlockRecord, LiveAdapter, Origin, TakeLog
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
    log: TakeLog,
    models: Models,
    *,
    check: Callable[[], None] = lambda: None,
    made: Callable[[int], None] | None = None,
    strengths: Mapping[str, float] | None = None,
) -> Replay:
    """Make a take again from its log.

    Live adapters have to be beside the weights under the names that the log has; they get the strength of each block
    as it began, and afterwards the one that they had. What was changed in the middle of a block is not repeated there.

    Args:
        log: the log.
        models: the networks.
        check: called before every denoising step; it may raise to leave.
        made: called with the number of each finished block.
        strengths: name of a live adapter to its strength throughout, whatever the log says.

    Returns:
        The latents, and how they compare to those of the log.

    Raises:
        ValueError: the log is empty, names another block size than the model has, or holds given latents that do not
            fit it.
    """
    if not len(log):
        raise ValueError("the log must hold at least one block, got none")
    adapters = getattr(models, "adapters", None)
    with contextlib.nullcontext() if adapters is None else adapters.restored():
        return _replay(log, models, check, made, _Weights(log, adapters, strengths or {}))


class _Weights:
    """Weighs adapters as a log says, block by block; one that says nothing of any leaves them as they are."""

    def __init__(self, log: TakeLog, adapters: Any, fixed: Mapping[str, float]) -> None:
        self._adapters, self._fixed = adapters, fixed
        self._told = any(record.adapters is not None for record in log)

    def heard(self, here: Origin, there: Origin) -> Origin:
        """What is here without the adapters that a log does not know, if those are off while it is replayed."""
        known = {adapter.name for adapter in there.adapters} | self._fixed.keys()
        kept = (adapter for adapter in here.adapters if not self._told or adapter.name in known)
        return replace(here, adapters=tuple(kept))

    def set(self, record: BlockRecord) -> None:
        """Weigh them as a block began."""
        if self._adapters is None:
            return
        told = dict(record.adapters or ())
        for name, now in self._adapters.strengths.items():
            wanted = self._fixed.get(name, told.get(name, 0.0) if self._told else now)
            if wanted != now:
                self._adapters.switch(name, True)
                self._adapters.set(name, wanted)


def _replay(
    log: TakeLog, models: Models, check: Callable[[], None], made: Callable[[int], None] | None, weights: _Weights
) -> Replay:
    there = replace(log.origin, adapters=used(log))
    differences = tuple(compare(there, weights.heard(origin_of(models), there)))
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
        weights.set(record)
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
    return found + _other_adapters(there, here)


def _other_adapters(there: Origin, here: Origin) -> list[str]:
    known, wanted = ({adapter.name: adapter for adapter in origin.adapters} for origin in (here, there))
    missing = [f"{name} (strength {one.strength:g})" for name, one in wanted.items() if name not in known]
    both = wanted.keys() & known.keys()
    other = [name for name in wanted if name in both and not _alike(wanted[name], known[name])]
    more = [name for name, one in known.items() if name not in wanted and one.strength]
    found = []
    if missing:
        found.append(
            f"the take was made with live adapters: {', '.join(missing)}; name them with --lora, or add them to "
            "`models.adapters`"
        )
    if other:
        found.append(f"other factors of live adapters: {', '.join(other)}; name the files that the take was made with")
    if more:
        found.append(f"adapters are live here that were not there: {', '.join(more)}")
    return found


def _alike(one: LiveAdapter, other: LiveAdapter) -> bool:
    return not one.factors or not other.factors or one.factors == other.factors


def used(log: TakeLog) -> tuple[LiveAdapter, ...]:
    """The live adapters that the blocks of a log were made with, each with the strength that it had first.

    Args:
        log: the log.

    Returns:
        Those whose strength was not 0; where no block tells of any, those of the origin.
    """
    if all(record.adapters is None for record in log):
        return tuple(adapter for adapter in log.origin.adapters if adapter.strength)
    known = {adapter.name: adapter for adapter in log.origin.adapters}
    found: dict[str, LiveAdapter] = {}
    for record in log:
        for name, strength in record.adapters or ():
            if strength and name not in found:
                found[name] = replace(known.get(name, LiveAdapter(name=name)), strength=strength)
    return tuple(found.values())


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
