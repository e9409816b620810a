"""The page that `studio results` makes: tables in Markdown, curves in vectors, strips of film."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from studio.widgets.palette import HEXES
from studio.writing import written

HEAD = """\
Made from [{name}]({name}) by `studio results page`; each table names the command that gives its numbers again.
Probabilities and shares are the probe's, in percent: means, and the standard deviation over seeds where there are
several. Captions are held out from training."""
FOOT = "{clips} films a seed, seeds {seeds}; {hardware}, PyTorch {torch}, {date}. `{command}`"
SWITCHES = """\
10 s, one attribute changed at 5 s. *kept*: probability of what should stay, over the 5 s after the switch; *new*: of
the changed attribute in the last 1.5 s; *alignment*: of all that the new prompt names, over the 5 s; *flicker* and
*jump*: change of the picture from block to block and at the switch, over that inside blocks; frames/s of one film,
not decoded."""
MINUTE = """\
*alignment*: probability of what the prompt in force names; *kept*: of what its switch left alone; below: shares read
right."""
DRIFT = """\
{seconds:g} s of one prompt, read {windows}. Attributes: shares read right;
brightness and contrast in levels of 255; milliseconds to make a block of all films, not decoded, at the beginning and
at the end."""
# Colours of a film strip, a third of the bytes of all of them.
TINTS = 256
INK, SOFT = "#1d2129", "#5a6270"
# The dark ones of the palette first: curves are thin.
COLOURS = tuple(HEXES[i] for i in (5, 4, 2, 3, 0, 1))

_MEAN: Any = {"mean": float, "spread": float}
_EVERY: dict[str, Any] = {**dict.fromkeys(("clips", "hardware", "torch", "date", "command")), "seeds": [None]}
_SWITCHED = ("kept", "new", "alignment", "flicker", "jump", "frames_per_second", "recache_ms")
_RIGHT: dict[str, Any] = {"right": {"": float}, "alignment": _MEAN}
# What a page shows of each experiment, and of the same shape the numbers in the file; see `_fault`.
_PARTS: dict[str, dict[str, Any]] = {
    "switches": {**_EVERY, "policies": {"": dict.fromkeys(_SWITCHED, _MEAN)}},
    "minute": {**_EVERY, "seconds": float, "policies": {"": [{**_RIGHT, "changed": None, "kept": _MEAN}]}},
    "drift": {
        **_EVERY,
        "seconds": float,
        "window": float,
        "caches": {
            "": {
                "windows": [{**_RIGHT, "seconds": float, "brightness": _MEAN, "contrast": _MEAN}],
                "block_seconds": [float],
            }
        },
    },
}


def read(path: Path) -> dict[str, Any]:
    """Read the numbers that are there.

    Args:
        path: the file; none is no numbers.

    Returns:
        Kind to label to numbers.

    Raises:
        ValueError: if the file is something else.
        IsADirectoryError: if it is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; name a file in it with --out")
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error}); mend it, or name another file with --out") from None
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds no results; name another file with --out")
    for kind, part in found.items():
        fault = _fault(part, {"": _PARTS[kind]}, kind) if kind in _PARTS else f"{kind} is no experiment"
        if fault:
            raise ValueError(f"{str(path)!r} holds no results ({fault}); mend it, or name another file with --out")
    return found


def _fault(found: Any, wanted: Any, where: str) -> str:
    """What is missing of what a page shows, or empty.

    Args:
        found: numbers out of a file.
        wanted: key to what is wanted of its value, an empty key for any key; a list of one for a list of such; `float`
            for a number, None for anything.
        where: the keys that lead here.
    """
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return f"{where} must have keys"
        lacking = next((key for key in wanted if key and key not in found), None)
        if lacking is not None:
            return f"{where} lacks {lacking!r}"
        inside = [(key, wanted.get(key, wanted.get(""))) for key in found]
    elif isinstance(wanted, list):
        if not isinstance(found, list) or not found:
            return f"{where} must be a list with something in it"
        inside = [(number, wanted[0]) for number in range(len(found))]
    else:
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        return "" if wanted is None or number else f"{where} must be a number"
    return next(filter(None, (_fault(found[key], part, f"{where}, {key}") for key, part in inside)), "")


def pictures(path: Path) -> Path:
    """The folder of pictures beside a file of numbers."""
    return path.with_suffix("")


def slug(label: str) -> str:
    """A label as part of a file's name; with a hash of the label where the name cannot hold its letters."""
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    lossy = not name or any(letter.isalnum() and not letter.isascii() for letter in label)
    return _hashed(name or "model", label) if lossy else name


def slugs(labels: Iterable[str]) -> dict[str, str]:
    """Labels as parts of names of files, no two the same.

    Args:
        labels: the labels of one kind, in the order of the file: of two that are alike the first keeps the plain name.

    Returns:
        Label to name.
    """
    found: dict[str, str] = {}
    for label in labels:
        name = slug(label)
        found[label] = _hashed(name, label) if name in found.values() else name
    return found


def _hashed(name: str, label: str) -> str:
    return f"{name}-{hashlib.sha256(label.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _marked(label: str) -> str:
    """A label for Markdown, where it means nothing but itself; in a table's cell as well."""
    return re.sub(r"([\\`|*<$\[\]])", r"\\\1", label)


def _unmathematical(text: str) -> str:
    """A text for matplotlib, which takes what stands between two dollars as mathematics."""
    return text.replace("$", r"\$")


class Strip:
    """Keeps some moments of the first three films of every row, and puts them side by side.

    Args:
        seconds: the moments.
        fps: frames a second.
        films: how many films.
    """

    def __init__(self, seconds: Sequence[float], *, fps: int = 16, films: int = 3) -> None:
        self.seconds, self.fps, self.films = tuple(seconds), fps, films
        self.rows: dict[str, dict[float, np.ndarray]] = {}
        self.texts: list[str] = []

    def add(self, kind: str, frame: int, pixels: Any, texts: list[str]) -> None:
        """Take a block.

        Args:
            kind: name of the row.
            frame: its first frame.
            pixels: `[B, T, 3, H, W]` in [-1, 1].
            texts: prompts of the films.
        """
        row = self.rows.setdefault(kind, {})
        self.texts = texts[: self.films]
        for second in self.seconds:
            index = int(second * self.fps) - frame
            if 0 <= index < pixels.shape[1]:
                picture = pixels[: self.films, index].float().clamp(-1, 1).cpu().numpy()
                row[second] = ((picture.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)

    def save(self, path: Path) -> Path | None:
        """Draw what was kept, films one below the other, a row each for every kind.

        Args:
            path: the file, .png.

        Returns:
            The path; None where the films ended before the first moment, and a file of longer films is taken away.
        """
        from matplotlib.figure import Figure
        from PIL import Image

        seconds = [s for s in self.seconds if any(s in row for row in self.rows.values())]
        if not seconds:
            path.unlink(missing_ok=True)
            return None
        films, kinds = len(self.texts), list(self.rows)
        figure = Figure(figsize=(1.02 * len(seconds) + 0.7, (1.05 * len(kinds) + 0.3) * films), layout="constrained")
        for part, text in zip(figure.subfigures(films, 1, squeeze=False)[:, 0], range(films), strict=True):
            part.suptitle(_unmathematical(self.texts[text]), fontsize=7, color=INK)
            grid = part.subplots(len(kinds), len(seconds), squeeze=False)
            for row, (axes, kind) in enumerate(zip(grid, kinds, strict=True)):
                for one, second in zip(axes, seconds, strict=True):
                    one.set_xticks([])
                    one.set_yticks([])
                    one.spines[:].set_visible(False)
                    if second in self.rows[kind]:
                        one.imshow(self.rows[kind][second][text])
                    if row == 0:
                        one.set_title(f"{second:g} s", fontsize=6, color=SOFT, pad=2)
                axes[0].set_ylabel(kind, fontsize=7, color=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=110, format="png")
        Image.open(drawn).convert("RGB").quantize(TINTS).save(path, optimize=True)
        return path


def write(results: dict[str, Any], path: Path) -> list[Path]:
    """Make the page and its curves.

    Args:
        results: kind to label to numbers.
        path: file of the numbers; the page stands beside it.

    Returns:
        The files that were written.
    """
    folder, made = pictures(path), []
    folder.mkdir(parents=True, exist_ok=True)
    text = ["# Results", "", HEAD.format(name=path.name), ""]
    tables, curves = _side_by_side(results)
    if tables:
        text += ["## Side by side", "", *tables]
    if curves is not None:
        made.append(folder / "drift.svg")
        _save(curves, made[-1])
        text += [f"![Drift, side by side]({folder.name}/{made[-1].name})", ""]
    for kind, label, name, found in _entries(results):
        title, lines, figure = {"switches": _switches, "minute": _minute, "drift": _drift}[kind](found)
        text += [f"## {title}: {_marked(label)}", "", *lines, ""]
        names = [f"{kind}-{name}.svg"] if figure is not None else []
        if figure is not None:
            made.append(folder / names[0])
            _save(figure, made[-1])
        names += [f"{kind}-{name}.png"] if (folder / f"{kind}-{name}.png").exists() else []
        text += [line for file in names for line in (f"![{title}, {_marked(label)}]({folder.name}/{file})", "")]
        text += [FOOT.format(**{**found, "seeds": ", ".join(map(str, found["seeds"]))}), ""]
        text += [found["note"], ""] if found.get("note") else []
    page = path.with_suffix(".md")
    with written(page) as aside:
        aside.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    return [page, *made]


def _entries(results: dict[str, Any]) -> Iterable[tuple[str, str, str, dict[str, Any]]]:
    for kind in ("switches", "minute", "drift"):
        names = slugs(results.get(kind, {}))
        for label, found in results.get(kind, {}).items():
            yield kind, label, names[label], found


def _side_by_side(results: dict[str, Any]) -> tuple[list[str], Any]:
    """What several models share of the tables below, a row a model, and their curves; nothing for one model."""
    text: list[str] = []
    switches, drift = results.get("switches", {}), results.get("drift", {})
    if len(switches) > 1:
        rows = [
            (_marked(label), policy, *(_percent(row[key]) for key in ("kept", "new", "alignment")), _plain(row["jump"]))
            for label, found in switches.items()
            for policy, row in found["policies"].items()
        ]
        text += [*_table(("switches", "policy", "kept", "new", "alignment", "jump"), rows), ""]
    if len(drift) < 2:
        return text, None
    caches = list(dict.fromkeys(name for found in drift.values() for name in found["caches"]))
    rows = [(_marked(label), *(_ends(found["caches"].get(name)) for name in caches)) for label, found in drift.items()]
    text += [*_table(("alignment, first → last window of drift", *caches), rows), ""]
    return text, _curves(drift, caches)


def _curves(drift: dict[str, Any], caches: Sequence[str]) -> Any:
    """Alignment over time: a picture a cache, all to one scale, and in each a line a model; below, one legend."""
    figure, pictures = _axes(len(caches))
    lines: dict[str, Any] = {}
    for axes, cache in zip(pictures, caches, strict=True):
        for (label, found), colour in zip(drift.items(), cycle(COLOURS), strict=False):
            if cache in found["caches"]:
                windows, shown = found["caches"][cache]["windows"], _unmathematical(label)
                line = _line(axes, windows, color=colour, label=shown, linewidth=1.4)
                lines.setdefault(label, line)
        axes.set_title("window {}, sink {}".format(*cache.split("+")), fontsize=8, color=INK)
    columns = min(3, len(lines))
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(lines) // columns))
    shown = [lines[label] for label in drift]
    figure.legend(handles=shown, fontsize=7, frameon=False, loc="outside lower center", ncols=columns)
    return figure


def _ends(part: dict[str, Any] | None) -> str:
    windows = part["windows"] if part else []
    return " → ".join(_percent(window["alignment"]) for window in (*windows[:1], *windows[-1:]))


def _percent(value: dict[str, float]) -> str:
    spread = f" ± {100 * value['spread']:.1f}" if value["spread"] else ""
    return f"{100 * value['mean']:.1f}{spread}"


def _plain(value: dict[str, float], digits: int = 2) -> str:
    spread = f" ± {value['spread']:.{digits}f}" if value["spread"] else ""
    return f"{value['mean']:.{digits}f}{spread}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _switches(found: dict[str, Any]) -> tuple[str, list[str], Any]:
    head = ("policy", "kept", "new", "alignment", "flicker", "jump at the switch", "frames/s", "recache, ms")
    rows = [
        (
            policy, _percent(row["kept"]), _percent(row["new"]), _percent(row["alignment"]), _plain(row["flicker"]),
            _plain(row["jump"]), _plain(row["frames_per_second"], 1), _plain(row["recache_ms"], 1),
        )
        for policy, row in found["policies"].items()
    ]  # fmt: skip
    lines = _table(head, rows)
    lines += ["", SWITCHES]
    return "Switches", lines, None


def _minute(found: dict[str, Any]) -> tuple[str, list[str], Any]:
    lines, (figure, (axes,)) = [], _axes()
    for colour, (policy, parts) in zip(COLOURS, found["policies"].items(), strict=False):
        ends = [found["seconds"] * (index + 1) for index in range(len(parts))]
        head = (policy, *(f"{end - found['seconds']:g} to {end:g} s" for end in ends))
        rows = [
            ("changed", *(part["changed"] or "" for part in parts)),
            ("alignment", *(_percent(part["alignment"]) for part in parts)),
            ("kept", *(_percent(part["kept"]) for part in parts)),
        ]
        rows += [(name, *(f"{100 * part['right'][name]:.1f}" for part in parts)) for name in parts[0]["right"]]
        lines += [*_table(head, rows), ""]
        axes.plot(ends, [100 * part["alignment"]["mean"] for part in parts], "o-", color=colour, label=policy, ms=3)
        axes.plot(
            ends, [100 * part["kept"]["mean"] for part in parts], "s--", color=colour, label=f"{policy}, kept", ms=3
        )
    lines.append(MINUTE)
    _finish(axes)
    return "A minute, six prompts", lines, figure


def _drift(found: dict[str, Any]) -> tuple[str, list[str], Any]:
    lines, (figure, (axes,)) = [], _axes()
    rows = []
    for colour, (name, part) in zip(COLOURS, found["caches"].items(), strict=False):
        windows = part["windows"]
        first, last = windows[0], windows[-1]
        rows.append(
            (
                name, _percent(first["alignment"]), _percent(last["alignment"]),
                *(f"{100 * first['right'][key]:.1f} → {100 * last['right'][key]:.1f}" for key in first["right"]),
                f"{first['brightness']['mean']:.0f} → {last['brightness']['mean']:.0f}",
                f"{first['contrast']['mean']:.0f} → {last['contrast']['mean']:.0f}",
                " → ".join(f"{1000 * value:.0f}" for value in part["block_seconds"]),
            )
        )  # fmt: skip
        _line(axes, windows, color=colour, label=name)
    keys = list(next(iter(found["caches"].values()))["windows"][0]["right"])
    head = ("window + sink", "alignment, first", "last", *keys, "brightness", "contrast", "ms a block")
    lines += _table(head, rows)
    several = any(len(part["windows"]) > 1 for part in found["caches"].values())
    read = f"in windows of {found['window']:g} s: the first and the last" if several else "as a whole"
    lines += ["", DRIFT.format(seconds=found["seconds"], windows=read)]
    _finish(axes)
    return "Drift", lines, figure


def _axes(pictures: int = 1) -> tuple[Any, list[Any]]:
    """A figure of alignment over time, and its pictures, side by side and to one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.75, 2.4), layout="constrained")
    found = list(figure.subplots(1, pictures, sharey=True, squeeze=False)[0])
    found[0].set_ylabel("alignment (%)", fontsize=7)
    for axes in found:
        axes.set_xlabel("seconds", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def _line(axes: Any, windows: Sequence[dict[str, Any]], **look: Any) -> Any:
    """Draws alignment over the windows of a film."""
    seconds, shares = zip(*((window["seconds"], 100 * window["alignment"]["mean"]) for window in windows), strict=True)
    # A line of one point is not seen.
    return axes.plot(seconds, shares, **({"marker": "o", "ms": 3} if len(seconds) == 1 else {}), **look)[0]


def _save(figure: Any, path: Path) -> None:
    """The same curves are the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def _finish(axes: Any) -> None:
    axes.set_ylim(0, 102)
    axes.legend(fontsize=7, frameon=False, loc="lower left", ncols=3)
