"""`studio results`: run the experiments on a model, keep their numbers as data, and make a page of them."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.config import POLICIES
from studio.writing import aside_of, written

TEXT = "measure what switches, a minute and minutes do to a model's films, and make a page of it"
MORE = """switches   10 s with a switch at 5 s, under each policy
minute     six prompts of 10 s each
drift      240 s of one prompt, with and without a sink
page       make the page and its pictures from the numbers again

Numbers go into FILE (JSON) under LABEL and stay there beside those of other labels; the page FILE with the ending .md
and a folder of pictures beside it are made anew each time."""
KINDS = ("switches", "minute", "drift", "page")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("kind", choices=KINDS, metavar="WHAT", help="switches, minute, drift or page")
    parser.add_argument("--model", default="miniature", help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--label", help="name of this model on the page (default: the model's)")
    parser.add_argument("--note", metavar="TEXT", help="a remark that the page shows below these numbers")
    parser.add_argument("--clips", type=int, help="videos a seed (default: 48, 24 for a minute, 32 for drift)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="seeds of captions and noise (default: 0 1 2; 0 for drift)"
    )
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, help="policies to compare (default: all; recache for a minute)"
    )
    parser.add_argument(
        "--caches", nargs="+", metavar="W+S", help="windows and sinks, for drift (default: 9+3 12+0 21+0)"
    )
    parser.add_argument("--seconds", type=float, help="length of a segment of a minute, or of the films of drift")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results.json"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--device", help="where to compute, as cpu or cuda:0 (default: a GPU where there is one)")
    parser.set_defaults(used=parser)


def run(options: Any, tell: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Run the command.

    Args:
        options: what `add_arguments` asked for.
        tell: writes results.
        say: writes remarks.

    Returns:
        Exit status.

    Raises:
        ValueError: if the file holds something else, or an option makes no sense.
        OSError: if the file cannot be written, which is tried before anything is measured.
    """
    from studio.cli import resultspage

    results = resultspage.read(options.out)
    if options.kind != "page":
        _try_to_write(options.out)
        label = options.label or options.model
        film = strip(options)
        found = measure(options, lambda text: say(f"{text} ..."), film)
        found["command"] = command(options)
        if options.note:
            found["note"] = options.note
        found["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        # Measuring takes minutes, in which another one may have written its numbers.
        results = resultspage.read(options.out)
        results.setdefault(options.kind, {})[label] = found
        with written(options.out) as aside:
            aside.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if film is not None:
            name = resultspage.slugs(results[options.kind])[label]
            path = film.save(resultspage.pictures(options.out) / f"{options.kind}-{name}.png")
            if path is not None:
                tell(str(path))
    for path in resultspage.write(results, options.out):
        tell(str(path))
    return 0


def _try_to_write(path: Path) -> None:
    """Make the file's folder and, for a moment, a file beside it, so that nobody measures for nothing."""
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
    except OSError as error:
        raise OSError(f"'{path}' cannot be written ({error.strerror}); name another file with --out") from error
    aside.unlink(missing_ok=True)


# Seconds of the films that the page shows.
VIEWS = {"switches": (4.5, 4.9, 5.2, 5.6, 6.5, 8.0, 9.9), "drift": (2.0, 30.0, 60.0, 120.0, 180.0, 239.0)}


def strip(options: Any) -> Any:
    """What keeps the moments that the page shows, at the model's frames a second; None for an experiment without."""
    if options.kind not in VIEWS:
        return None
    from studio.cli import resultspage
    from studio.model.weights import layout_of

    return resultspage.Strip(VIEWS[options.kind], fps=layout_of(options.model)[0].config.fps)


def measure(options: Any, say: Callable[[str], None], film: Any = None) -> dict[str, Any]:
    """Run one experiment with the options that were given; the others keep their defaults."""
    from studio.evaluate import experiments

    names = {"switches": ("clips", "seeds", "policies"), "minute": ("clips", "seeds", "policies", "seconds")}
    wanted = names.get(options.kind, ("clips", "seeds", "caches", "seconds"))
    for name in ("clips", "seeds", "policies", "caches", "seconds"):
        if name not in wanted and getattr(options, name) is not None:
            raise ValueError(f"--{name} is nothing that {options.kind!r} knows; leave it out")
    given = {name: value for name in wanted if (value := getattr(options, name)) is not None}
    extra = {} if film is None else {"keep": film.add}
    return getattr(experiments, options.kind)(options.model, device=options.device, say=say, **given, **extra)


def command(options: Any) -> str:
    """The words that give these numbers again."""
    words = ["studio", "results", options.kind]
    for name in ("model", "label", "clips", "seeds", "policies", "caches", "seconds"):
        value = getattr(options, name)
        if value is not None and value != options.used.get_default(name):
            words += [
                f"--{name}",
                *(
                    map(str, value)
                    if isinstance(value, list)
                    else [f"{value:g}" if isinstance(value, float) else str(value)]
                ),
            ]
    return shlex.join(words)
