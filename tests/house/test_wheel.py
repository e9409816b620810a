from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _below(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / folder).rglob("*") if path.is_file()}


def test_it_carries_the_bundle_and_not_its_source(names: set[str]) -> None:
    bundle = _below("studio/widgets/static")
    assert any(name.endswith(".js") for name in bundle)
    assert bundle <= names
    assert not [name for name in names if "/js/" in name or "node_modules" in name or name.endswith(".ts")]


def test_it_carries_the_miniature(names: set[str]) -> None:
    weights = _below("assets/miniature")
    assert {"config.json", "tokenizer.json"} <= {name.rsplit("/", 1)[1] for name in weights}
    assert any(name.endswith(".safetensors") for name in weights)
    assert {f"studio/{name}" for name in weights} <= names


def test_it_carries_every_module_the_licence_and_the_command(names: set[str]) -> None:
    modules = {name for name in _below("studio") if name.endswith(".py") and "node_modules" not in name}
    assert modules <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "assets/"))]


def test_it_finds_the_miniature_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import studio; models = studio.load('miniature'); print(studio.__file__, models.config.name)"
    command = [sys.executable, "-P", "-c", code]
    environment = {**_environment(), "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / "studio" / "__init__.py"), "miniature"]


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)
