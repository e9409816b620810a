"""Every command that the documents show is one that the command lines take; none is run."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.cli import build_parser
from studio.train.__main__ import RECIPES, configured

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "assets" / "miniature" / "README.md")
STARTS = ("studio ", "python -m studio.train ", "accelerate launch ")


def commands(text: str) -> Iterator[str]:
    """The commands of a page: lines of its blocks, and what stands in backticks, over the end of a line too."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.S | re.M)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    for found in [*lines, *re.findall(r"`([^`]+)`", prose)]:
        command = " ".join(re.split(r"\s#\s", found.lstrip(" !$%"))[0].split())
        # In prose a name alone, `studio replay`, is that of a command and none to be given; so is the start of one.
        whole = " -m " in command if command.startswith("accelerate ") else len(command.split()) > 2
        if command.startswith(STARTS) and whole:
            yield command


def told() -> Iterator[tuple[str, str]]:
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for page in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        pages[page] = "\n\n".join(
            text if cell["cell_type"] == "markdown" else f"```\n{text}\n```\n"
            for cell in cells
            if (text := "".join(cell["source"]))
        )
    for page, text in pages.items():
        yield from ((str(page.relative_to(ROOT)), command) for command in dict.fromkeys(commands(text)))


TOLD = list(told())


def parse(command: str, files: Path) -> None:
    """Parse a command as it would be when given; raises SystemExit or ValueError where it would be refused.

    Args:
        command: the command.
        files: folder for a configuration that it reads.
    """
    words = shlex.split(command)
    if words[0] == "studio":
        build_parser().parse_known_args(words[1:]) if words[1] == "lab" else build_parser().parse_args(words[1:])
        return
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        launched = launch_command_parser().parse_args(words[2:])
        words = ["python", "-m", launched.training_script, *launched.training_script_args]
    assert words[2] == "studio.train", f"{command}: no such module"
    module, name = RECIPES[words[3]]
    recipe = getattr(importlib.import_module(module), name)
    presets = getattr(recipe, "presets", None)
    config = typing.get_type_hints(recipe)["config"] if presets is None else recipe.config
    configured(config, words[3], presets, [_saved(word, recipe, files) for word in words[4:]])


def _saved(word: str, recipe: typing.Any, files: Path) -> str:
    """In place of the file of a configuration that a reader is to write, one that is there."""
    if not word.endswith(".json"):
        return word
    fields = {"out": "OUT", "teacher": "TEACHER", **next(iter(recipe.presets.values()))}
    (files / Path(word).name).write_text(json.dumps(fields), encoding="utf-8")
    return str(files / Path(word).name)


@pytest.mark.parametrize(("page", "command"), TOLD, ids=[f"{page}:{command[:60]}" for page, command in TOLD])
def test_every_documented_command_is_taken(page: str, command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse(command, tmp_path)
    except SystemExit as end:
        assert not end.code, f"{page}: {command}\n{said.getvalue()}"


def test_the_commands_are_found_wherever_they_stand() -> None:
    found = list(
        commands("Try `studio bench\n--json`.\n\n  ```sh\n  studio render \\\n      --out a.mp4  # a film\n  ```\n")
    )
    assert found == ["studio render --out a.mp4", "studio bench --json"]
    assert list(commands("`studio replay` gives it again, `ls -l` and `studio` do not.")) == []
    assert len({page for page, _ in TOLD}) >= 6


@pytest.mark.parametrize(
    "command",
    [
        "python -m studio.train scale --shard",
        "python -m studio.train narrow --channels 8 --clips 24",
        "accelerate launch --num_processes 2 -m studio.train scale --shards --out OUT",
        "studio bench --moodel miniature",
    ],
)
def test_a_command_that_lacks_something_is_noticed(command: str, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as refused:
        parse(command, tmp_path)
    assert refused.value.code
