from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rooms import ROOMS, arrows, imports, module_name, room_of

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "studio").rglob("*.py"))
MODULES = [path for path in MODULES if "node_modules" not in path.parts]
TORCHLESS = ("config", "shapes", "timeline", "events", "formats", "widgets")


def _read(path: Path) -> tuple[str, str, bool]:
    return path.read_text(encoding="utf-8"), module_name(path, ROOT), path.name == "__init__.py"


def test_every_module_has_a_room() -> None:
    homeless = [name for name in (module_name(path, ROOT) for path in MODULES) if _homeless(name)]
    assert not homeless, f"give {homeless} a room in tests/house/rooms.py, or put them into one"


def _homeless(name: str) -> bool:
    return len(name.split(".")) > 1 and name.split(".")[1] not in ROOMS


def test_imports_go_one_way() -> None:
    wrong = []
    for source, name, package in map(_read, MODULES):
        if not _homeless(name):
            wrong += arrows(source, name, package=package)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from studio.probes import Taps", "studio.model.dit"),
        ("import studio.train", "studio.live.session"),
        ("from studio import live", "studio.train.distill"),
        ("def f():\n    from studio.live import open", "studio.evaluate.speed"),
        ("from ..live import session", "studio.widgets.player"),
        ("from studio import Session", "studio.widgets.player"),
        ("from studio.model import dit", "studio.config"),
    ],
)
def test_the_walk_sees_wrong_arrows(source: str, module: str) -> None:
    assert arrows(source, module)


def test_the_walk_lets_right_arrows_pass() -> None:
    assert not arrows("import torch\nfrom studio.config import preset\nfrom studio.model import dit", "studio.sampler")


@pytest.mark.parametrize("name", TORCHLESS)
def test_words_and_widgets_name_no_torch(name: str) -> None:
    wrong = []
    for source, module, package in map(_read, MODULES):
        if module.split(".")[1:2] == [name]:
            found = imports(source, module, package=package)
            wrong += [f"{module}:{line} imports {target}" for line, target in found if target.split(".")[0] == "torch"]
    assert not wrong, "\n".join(wrong)


def test_the_loop_knows_no_ranks_loggers_or_files() -> None:
    strangers = {"logging", "os", "pathlib", "io", "torch.distributed", "accelerate"}
    wrong = []
    for source, module, package in map(_read, MODULES):
        if not _homeless(module) and room_of(module) == "loop":
            for line, target in imports(source, module, package=package):
                if any(target == name or target.startswith(name + ".") for name in strangers):
                    wrong.append(f"{module}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "statement",
    ["import studio", "from studio.widgets import CacheStrip, FrameSource", "from studio import Timeline, Studio"],
)
def test_a_fresh_interpreter_loads_no_torch(statement: str) -> None:
    code = f"{statement}\nimport sys\nsys.exit('torch is loaded' if 'torch' in sys.modules else 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_page_of_results_needs_no_notebook() -> None:
    code = "import studio.cli.resultspage, sys\nsys.exit('a widget is loaded' if 'anywidget' in sys.modules else 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
