"""The event log of a take: what each block was made under, and what made it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from studio.live.orders import Order
from studio.timeline import Fold, Mix, Segment, Timeline, Weighted, check_seed, check_whole, shorten
from studio.timeline.checks import check_choice, check_policy, check_prompt
from studio.timeline.plain import check_keys, check_list
from studio.writing import written

FORMAT = "studio-log"
VERSION = 1
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Given:
    """Latents of a block that was given, as a picture or a clip, rather than generated.

    Args:
        shape: `[1, f, C, H, W]`.
        data: little-endian float32 numbers in base 64.
    """

    shape: tuple[int, ...]
    data: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class LiveAdapter:
    """An adapter beside the weights of what made a take.

    Args:
        name: what it is called.
        factors: fingerprint of its factors, as `LoRA.fingerprint` gives it; empty where it is not known.
        strength: what it was multiplied by when the log was asked for, 0 where it was off; the blocks tell their own.
    """

    name: str
    factors: str = ""
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """What one block was made under; with the model, the records of a take determine its latents bit for bit.

    One thing is not told: where the strength of a live adapter was changed while a block was being made, that block
    has a part of both, and cannot be made again.

    Args:
        take: number of the take that made it; a fork shares the blocks of its parent.
        block: block number.
        first_frame: its first pixel frame.
        prompt: the prompt in force.
        seed: seed of the noise.
        policy: what the switch at this block did to the cache; None where there was no switch.
        sink_policy: the sink policy of that switch; None for the model's own.
        requested_frame: the playhead when a live switch was asked for that took effect here, else None.
        resumed: whether the cache was rebuilt from the kept latents before this block, as for a fork.
        segment: number of the segment, for the cache's provenance.
        mix: what was in force where it was more than `prompt`, else None.
        latents: SHA-256 of the bytes of its latents.
        given: the latents themselves, where they were given rather than generated.
        adapters: name and strength of each live adapter as the block began; None where there was none.
    """

    take: int
    block: int
    first_frame: int
    prompt: str
    seed: int
    policy: str | None = None
    sink_policy: str | None = None
    requested_frame: int | None = None
    resumed: bool = False
    segment: int = 0
    mix: Mix | None = None
    latents: str = ""
    given: Given | None = None
    adapters: tuple[tuple[str, float], ...] | None = None

    @property
    def order(self) -> Order:
        """What the block was to be made of."""
        return Order(
            prompt=self.prompt,
            number=self.segment,
            policy=self.policy,  # type: ignore[arg-type]
            sink_policy=self.sink_policy,  # type: ignore[arg-type]
            mix=self.mix,
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a take.

    Args:
        studio: version of the studio.
        torch: version of torch.
        device: what computed, with what can change the last bits.
        dtype: type of the weights.
        model: name of the model.
        config: its configuration, as `studio.config.to_dict` gives it.
        weights: fingerprint of its weights; see `studio.live.origin.fingerprint`.
        adapters: adapters that were live beside the weights; logs before they were told have none.
    """

    studio: str
    torch: str
    device: str
    dtype: str
    model: str
    config: dict[str, Any] = field(hash=False)
    weights: str
    adapters: tuple[LiveAdapter, ...] = ()

    def __repr__(self) -> str:
        return f"<Origin {self.model}, weights {self.weights[:8]}, {self.dtype}: {self.device}, torch {self.torch}>"


class TakeLog(Sequence[BlockRecord]):
    """The records of a take, block by block, with what made them; it compares equal to a list of the same records.

    Args:
        records: one a block, from block 0.
        origin: what made them, or a function that tells it when it is asked for.
        name: name of the take.
    """

    def __init__(self, records: Sequence[BlockRecord], origin: Origin | Callable[[], Origin], name: str = "") -> None:
        self.records, self.name, self._origin = tuple(records), name, origin

    @property
    def origin(self) -> Origin:
        """What made them."""
        if not isinstance(self._origin, Origin):
            self._origin = self._origin()
        return self._origin

    @overload
    def __getitem__(self, index: int) -> BlockRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BlockRecord]: ...
    def __getitem__(self, index: int | slice) -> BlockRecord | Sequence[BlockRecord]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[BlockRecord]:
        return iter(self.records)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TakeLog):
            return (self.records, self.origin, self.name) == (other.records, other.origin, other.name)
        return list(self.records) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<TakeLog {self.name!r}: {len(self)} blocks>"

    def to_json(self, indent: int | None = None) -> str:
        """The log as JSON text; `from_json` reads it back.

        Args:
            indent: as in `json.dumps`.
        """
        origin = asdict(self.origin)
        if not origin["adapters"]:
            del origin["adapters"]  # As it always was, for those who read it.
        head = {"format": FORMAT, "version": VERSION, "name": self.name, "origin": origin}
        blocks = [_record_to_dict(record) for record in self.records]
        return json.dumps({**head, "blocks": blocks}, ensure_ascii=False, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> TakeLog:
        """Read a log.

        Args:
            text: from `to_json`.

        Returns:
            The log.

        Raises:
            ValueError: anything else; the message names it.
        """
        try:
            head = json.loads(text)
        except (json.JSONDecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"not a log: {shorten(str(error))}") from None
        check_keys(head, ("format", "version", "name", "origin", "blocks"), "the log")
        if head.get("format") != FORMAT or head.get("version") != VERSION:
            found = (head.get("format"), head.get("version"))
            raise ValueError(f'a log must be of format "{FORMAT}", version {VERSION}, got {shorten(found)}')
        origin = check_keys(head.get("origin"), tuple(Origin.__dataclass_fields__), "origin")
        adapters = tuple(_adapter_from_dict(item) for item in check_list(origin.pop("adapters", []), "adapters"))
        missing = [name for name in Origin.__dataclass_fields__ if name not in origin and name != "adapters"]
        if missing:
            raise ValueError(f"`origin` must say what made the take; {', '.join(missing)} is missing")
        for name, value in origin.items():
            wanted, kind = (dict, "an object") if name == "config" else (str, "a string")
            if not isinstance(value, wanted):
                raise ValueError(f"`origin` must have {kind} as its {name}, got {shorten(value)}; is the log damaged?")
        items = check_list(head.get("blocks"), "blocks")
        records = [_record_from_dict(item, i) for i, item in enumerate(items)]
        return cls(records, Origin(**origin, adapters=adapters), str(head.get("name", "")))

    def save(self, path: str | Path) -> None:
        """Write the log to a file, whole or not at all.

        Args:
            path: the file, as take.json; replaced when it exists.
        """
        with written(Path(path)) as aside:
            aside.write_text(self.to_json(indent=1) + "\n", encoding="utf-8")


def script_of(records: Sequence[BlockRecord], like: Timeline) -> Timeline:
    """The timeline that makes the same latents again, with every policy spelled out.

    Args:
        records: the event log of a take.
        like: gives the frame rate and the block size.

    Returns:
        A timeline as long as the log.

    Raises:
        ValueError: the log is empty, or holds what a timeline cannot say: it began with a picture or a clip, the cache
            was rebuilt in the middle, or a spherical transition was under way.
    """
    if not records:
        raise ValueError("`records` must hold at least one block, got none; play first")
    if any(record.given for record in records):
        raise ValueError("the video began with a picture or a clip, which a timeline cannot repeat; replay the log")
    rebuilt = [record.block for record in records if record.resumed]
    if rebuilt:
        raise ValueError(f"the cache was rebuilt at block {rebuilt[0]}, which a timeline cannot repeat; replay the log")
    segments = []
    for before, record in zip((None, *records), records, strict=False):
        changed = before is None or (record.prompt, record.mix) != (before.prompt, before.mix)
        if changed or record.policy is not None:
            segments.append(_segment_of(record))
    return replace(like, segments=tuple(segments), length=len(records), seed=records[0].seed)


def _segment_of(record: BlockRecord) -> Segment:
    # Where no policy was at work, the cache was left alone: that is "keep".
    policy = record.policy or ("keep" if record.block else None)
    if record.mix is None:
        return Segment(record.prompt, record.block, policy=policy, sink_policy=record.sink_policy)
    if record.mix.folds:
        raise ValueError(f"a spherical transition at block {record.block} is no timeline of its own; replay the log")
    (prompt, weight), *more = record.mix.parts
    blend = tuple(Weighted(text, share) for text, share in more)
    return Segment(
        prompt, record.block, policy=policy, sink_policy=record.sink_policy, weight=weight, blend=blend
    )  # fmt: skip


def _record_to_dict(record: BlockRecord) -> dict[str, Any]:
    blank = BlockRecord(take=-1, block=-1, first_frame=-1, prompt="", seed=-1)
    out = {
        name: value for name in record.__dataclass_fields__ if (value := getattr(record, name)) != getattr(blank, name)
    }
    if record.mix is not None:
        out["mix"] = asdict(record.mix)
    if record.given is not None:
        out["given"] = {"shape": list(record.given.shape), "data": record.given.data}
    return out


def _record_from_dict(item: Any, i: int) -> BlockRecord:
    where = f"blocks[{i}]"
    check_keys(item, tuple(BlockRecord.__dataclass_fields__), where)
    try:
        check_prompt(item.get("prompt"))
        check_seed(item.get("seed"))
        check_policy(item.get("policy"))
        check_choice(item.get("sink_policy"), "sink_policy", ("keep", "rewrite"))
        check_whole(item.get("block"), "block", i, i, f"the blocks count from 0 without gaps, so use {i}")
        for name in ("take", "first_frame", "segment"):
            check_whole(item.get(name, 0), name, 0, 2**53)
        if item.get("requested_frame") is not None:
            check_whole(item["requested_frame"], "requested_frame", 0, 2**53)
        if not isinstance(item.get("resumed", False), bool):
            raise ValueError(f"`resumed` must be true or false, got {shorten(item['resumed'])}; is the log damaged?")
        if not isinstance(item.get("latents", ""), str):
            raise ValueError(f"`latents` must be a string, got {shorten(item['latents'])}; is the log damaged?")
        mix = None if item.get("mix") is None else _mix_from_dict(item["mix"])
        given = None if item.get("given") is None else _given_from_dict(item["given"])
        adapters = None if item.get("adapters") is None else _strengths(item["adapters"])
        return BlockRecord(**{"take": 0, "first_frame": 0, **item, "mix": mix, "given": given, "adapters": adapters})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _adapter_from_dict(item: Any) -> LiveAdapter:
    check_keys(item, tuple(LiveAdapter.__dataclass_fields__), "adapters")
    ((name, strength),) = _strengths([[item.get("name"), item.get("strength")]])
    if not isinstance(item.get("factors", ""), str):
        raise ValueError(f"`factors` must be a string, got {shorten(item['factors'])}; is the log damaged?")
    return LiveAdapter(name=name, factors=item.get("factors", ""), strength=strength)


def _strengths(items: Any) -> tuple[tuple[str, float], ...]:
    pairs = []
    for item in check_list(items, "adapters"):
        match item:
            case [str(name), int() | float() as strength] if math.isfinite(strength):
                pairs.append((name, float(strength)))
            case _:
                raise ValueError(f"`adapters` must hold names and finite strengths, got {shorten(item)}")
    return tuple(pairs)


def _given_from_dict(item: Any) -> Given:
    check_keys(item, ("shape", "data"), "given")
    shape = [check_whole(size, "shape", 1, 2**20) for size in check_list(item.get("shape"), "shape")]
    if len(shape) != 5 or not isinstance(item.get("data"), str):
        raise ValueError(f"given latents must have a shape of five numbers and data, got {shorten(item)}")
    return Given(shape=tuple(shape), data=item["data"])


def _mix_from_dict(item: Any) -> Mix:
    check_keys(item, ("parts", "folds"), "mix")
    folds = []
    for fold in check_list(item.get("folds", []), "folds"):
        check_keys(fold, ("parts", "share", "kind"), "fold")
        if not isinstance(fold.get("share"), (int, float)) or fold.get("kind") not in ("linear", "spherical"):
            raise ValueError(f"a fold must have a share and a kind, got {shorten(fold)}")
        folds.append(Fold(_parts(fold.get("parts")), float(fold["share"]), fold["kind"]))
    return Mix(_parts(item.get("parts")), tuple(folds))


def _parts(items: Any) -> tuple[tuple[str, float], ...]:
    parts = []
    for item in check_list(items, "parts"):
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise ValueError(f"`parts` must hold pairs of a prompt and its share, got {shorten(item)}")
        parts.append(Weighted(*item))
    if not parts:
        raise ValueError("`parts` must hold at least one prompt, got none")
    return tuple((part.prompt, part.weight) for part in parts)
