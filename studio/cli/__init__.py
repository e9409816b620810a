"""The `studio` command: everything that works without a notebook, and one that opens the notebook."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from studio.config import POLICIES

if TYPE_CHECKING:
    from studio.timeline import Timeline

ROOT = Path(__file__).resolve().parents[2]
LAB = Path("notebooks") / "01_live_studio.ipynb"
# The usual options of JupyterLab that stand alone; after another one without "=" its value comes.
LAB_FLAGS = {"-y", "--allow-root", "--autoreload", "--core-mode", "--debug", "--dev-mode", "--no-browser"}
RENDER_LEAD = 4
EXPECTED = (ValueError, RuntimeError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words after `studio`; None for those of the shell.

    Returns:
        Exit status: 0 when all is well, 1 after an error or for an unhealthy machine, 130 when interrupted. Words that
        cannot be understood end the process with 2, as usual.
    """
    parser = build_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(words)
    if rest and options.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.words = words[words.index(options.command) + 1 :]
    try:
        return options.run(options)
    except EXPECTED as error:
        say(f"studio {options.command}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"\nstudio {options.command}: interrupted")
        return 130


def say(text: str, end: str = "\n") -> None:
    """Write to the error stream, so that what a command prints can be piped."""
    _write(sys.stderr, text + end)


def tell(text: str) -> None:
    """Write what the command was asked for."""
    _write(sys.stdout, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write; letters that the stream's encoding has not, as in names of files, are escaped rather than an error."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="studio", description="Steer a video while it is being generated.")
    parser.add_argument("--version", action="version", version=f"studio {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_lab(commands)
    _add_render(commands)
    _add_replay(commands)
    _add_doctor(commands)
    _add_bench(commands)
    _add_evaluate(commands)
    _add_results(commands)
    _add_timeline(commands)
    _add_download(commands)
    return parser


def _version() -> str:
    import studio

    return studio.__version__


def _command(commands: Any, name: str, run: Callable[[Any], int], text: str, more: str = "") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + "." + (f"\n\n{more}" if more else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="miniature", help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--device", help="where to compute, as cpu or cuda:0 (default: a GPU where there is one)")


# lab


def _add_lab(commands: Any) -> None:
    parser = _command(commands, "lab", _lab, "open the live notebook in JupyterLab", "Other options go to JupyterLab.")
    parser.add_argument("notebook", nargs="?", type=Path, help=f"a notebook or folder (default: {LAB})")


def _lab(options: Any) -> int:
    from importlib.util import find_spec

    named, rest = _lab_words(options.words)
    notebook = named or next((path for path in (Path.cwd() / LAB, ROOT / LAB) if path.exists()), None)
    if notebook is None:
        raise FileNotFoundError(f"{LAB} is not in this installation; run this in a checkout, or name a notebook")
    if not notebook.exists():
        raise FileNotFoundError(f"there is no notebook {str(notebook)!r}; check the path")
    if find_spec("jupyterlab") is None:
        raise ImportError("JupyterLab is not installed; pip install jupyterlab")
    return _become([sys.executable, "-m", "jupyterlab", str(notebook), *rest])


def _become(command: list[str]) -> int:
    """Go on as another program, so that whatever ends this command ends it; where a system has no such thing, wait."""
    if os.name == "posix":
        os.execv(command[0], command)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # the way to end JupyterLab; it has said good-bye itself
        return 0


def _lab_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The notebook among the words after `lab`, or None, and what goes to JupyterLab.

    The parser cannot tell: it does not know which of JupyterLab's options have a value, and takes it for the notebook.
    """
    notebook: Path | None = None
    rest: list[str] = []
    option = ""
    for word in words:
        # Rarer options may stand alone as well: what is named like a notebook is one.
        valued = option and ("." in option or not word.endswith(".ipynb"))
        if word.startswith("-") or valued or notebook is not None:
            rest.append(word)
        else:
            notebook = Path(word)
        option = word if word.startswith("-") and "=" not in word and word not in LAB_FLAGS else ""
    return notebook, rest


# render


def _add_render(commands: Any) -> None:
    parser = _command(commands, "render", _render, "write a timeline, or one prompt, as a film")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--timeline", type=Path, metavar="FILE", help="a timeline: .json, or .txt with a prompt a line")
    what.add_argument("--prompt", help="one prompt for the whole film")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the film to write: .mp4, .webm or .gif"
    )
    parser.add_argument("--seed", type=int, help="seed of the noise (default: the timeline's)")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="recache",
        help="what a switch does to the cache where the timeline leaves it open (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, help="length (default: the timeline's, else 5 s after the last switch)"
    )
    parser.add_argument("--force", action="store_true", help="replace the film if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_model(parser)


def _render(options: Any) -> int:
    from studio.live.export import Film, check_out, encoder
    from studio.live.pictures import Gif

    out = check_out(options.out, force=options.force)
    timeline = _film_timeline(options)
    if out.suffix.lower() == ".mp4" and encoder() != "libx264":
        say(f"this build of PyAV has no libx264; writing with {encoder()} instead")
    from tqdm import tqdm

    from studio.live.open import open as open_session

    with open_session(
        options.model, timeline=timeline, seed=options.seed, policy=options.policy, lead=RENDER_LEAD,
        device=options.device,
    ) as session:  # fmt: skip
        _say_unknown(session)
        total = timeline.start_frame(timeline.length or 0)
        tags = {"title": timeline.segments[0].prompt, "comment": session.timeline.to_json()}
        kind = Gif if out.suffix.lower() == ".gif" else Film
        film = kind(out, width=session.width, height=session.height, fps=session.fps, tags=tags)
        bar = tqdm(total=total, unit="frame", desc=out.name, disable=options.quiet, file=sys.stderr)
        with film, bar, session.frames() as frames:
            for block in frames:
                film.write(block)
                bar.update(len(block))
            film.tags["description"] = session.log.to_json()
    tell(f"{out}: {film.frames} frames, {film.frames / timeline.fps:.2f} s")
    return 0


def _film_timeline(options: Any) -> Timeline:
    """The timeline to render, always with a length."""
    from studio.timeline import SEGMENT_BLOCKS, Timeline, check_seconds, shorten

    timeline = Timeline.load(options.timeline) if options.timeline else Timeline.of(options.prompt)
    if options.seconds is not None:
        if check_seconds(options.seconds, "seconds") == 0:
            raise ValueError(f"`seconds` must be more than 0, got {shorten(options.seconds)}")
        return timeline.cut(timeline.block_at_or_after(options.seconds))
    if timeline.length is None:
        return timeline.with_length(timeline.segments[-1].start + SEGMENT_BLOCKS)
    return timeline


def _say_unknown(session: Any) -> None:
    for segment in session.timeline.segments:
        for word in session.unknown_words(segment.prompt):
            hint = f"; did you mean {word.nearest!r}?" if word.nearest else ""
            say(f"{session.name} does not know the word {word.word!r}{hint}")


# replay


def _add_replay(commands: Any) -> None:
    from studio.cli import replay

    replay.add_arguments(_command(commands, "replay", _replay, replay.TEXT, replay.MORE))


def _replay(options: Any) -> int:
    from studio.cli import replay

    return replay.run(options, tell, say)


# doctor


def _add_doctor(commands: Any) -> None:
    parser = _command(commands, "doctor", _doctor, "say what this machine has, what is missing and what mends it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: Any) -> int:
    from studio.cli import doctor

    findings = doctor.examine()
    report = doctor.as_json(findings)
    tell(json.dumps(report, indent=2, ensure_ascii=False) if options.json else doctor.as_text(findings))
    return 0 if report["healthy"] else 1


# bench


def _add_bench(commands: Any) -> None:
    from studio.cli import benching

    benching.add_arguments(_command(commands, "bench", _bench, benching.TEXT, benching.MORE), _add_model)


def _bench(options: Any) -> int:
    from studio.cli import benching

    return benching.run(options, tell, say, _table)


def _table(figures: dict[str, Any]) -> str:
    lines, width = [], max(17, *(len(key) for key in figures))
    for key, value in figures.items():
        shown = ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else value
        lines.append(f"{key:<{width}} {shown}")
    return "\n".join(lines)


# evaluate


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "measure how well a model does what its prompts say, before and after a switch"
    )
    parser.add_argument(
        "--captions", type=int, default=200, help="held-out captions to generate (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of captions and noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="network calls of a bidirectional model's clip (default: 20)")
    parser.add_argument("--guidance", type=float, help="weight of its prompt, 1 for no guidance (default: 2.5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_model(parser)


def _evaluate(options: Any) -> int:
    from studio.evaluate import evaluate  # type: ignore[attr-defined]

    report = evaluate(
        options.model, captions=options.captions, seed=options.seed, device=options.device, steps=options.steps,
        guidance=options.guidance, say=lambda text: say(f"{text} ..."),
    )  # fmt: skip
    tell(json.dumps(report, indent=2, ensure_ascii=False) if options.json else _table(report))
    return 0


# results


def _add_results(commands: Any) -> None:
    from studio.cli import results

    results.add_arguments(_command(commands, "results", _results, results.TEXT, results.MORE))


def _results(options: Any) -> int:
    from studio.cli import results

    return results.run(options, tell, say)


# download


def _add_download(commands: Any) -> None:
    from studio.cli import download

    download.add_arguments(_command(commands, "download", _download, download.TEXT, download.MORE))


def _download(options: Any) -> int:
    from studio.cli import download

    return download.run(options, tell, say)


# timeline


def _add_timeline(commands: Any) -> None:
    text = "work with timeline files"
    parser = commands.add_parser("timeline", help=text, description="Work with timeline files.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    convert = _command(actions, "convert", _convert, "read a timeline in one format and write it in another")
    convert.add_argument("source", type=Path, metavar="IN", help="the file to read")
    convert.add_argument("target", type=Path, metavar="OUT", help="the file to write")
    from studio.formats import KINDS as kinds

    convert.add_argument("--from", dest="source_kind", choices=kinds, help="format of IN (default: by its ending)")
    convert.add_argument("--to", dest="target_kind", choices=kinds, help="format of OUT (default: by its ending)")
    convert.add_argument(
        "--switches",
        metavar="FRAMES",
        help="latent frames of a LongLive file's switches, as 39,81 (default: every 40)",
    )
    convert.add_argument("--video", type=int, default=0, help="which line of a LongLive file, from 0 (default: 0)")
    convert.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _convert(options: Any) -> int:
    from studio import formats

    switches = _switches(options.switches)
    found = formats.read(options.source, options.source_kind, switches=switches, video=options.video)
    kind = formats.kind_of(options.target, options.target_kind)
    if options.target.exists() and not options.force:
        raise FileExistsError(f"{str(options.target)!r} exists; name another file, or replace it with --force")
    for note in found.notes:
        say(note)
    name = _NAMES[kind]
    for lost in formats.save(found.timeline, options.target, kind):
        say(f"{name} cannot hold {lost}")
    count = len(found.timeline.segments)
    tell(f"{options.target}: {count} segment{'' if count == 1 else 's'}")
    return 0


_NAMES = {
    "json": "the studio's JSON",
    "txt": "plain text",
    "longlive": "LongLive's JSON lines",
    "scope": "Scope's JSON",
}


def _switches(text: str | None) -> list[int] | None:
    """Latent frames separated by commas."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"`--switches` must be latent frames separated by commas, got {text!r}; as 39,81") from None
