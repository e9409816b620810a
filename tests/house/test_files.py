from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "studio"
LARGEST = 16 * 2**20
# Places that mean something on one machine only, and hosts that pip, npm and apt know by themselves.
PRIVATE = re.compile(
    r"/opt/(dev|wheels)|/work/(main|shared|\.)|/(root|Users)/\w|/home/(?!user\b)\w|[A-Z]:\\Users"
    r"|registry\.np[m]js|files\.python[h]osted|//py[p]i\.org|download\.py[t]orch|deb\.deb[i]an|bash_job[s]"
)
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X{3})\b")


def _tracked() -> list[Path]:
    """The files of the repository; without git, every file that no tool made."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    made = {".git", ".venv", "node_modules", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.parts)]


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _tracked():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _package() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "node_modules" not in path.parts]


def test_no_file_is_too_large() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in _tracked() if path.stat().st_size > LARGEST}
    assert not large, f"more than 16 MiB: {large}"


def test_no_text_names_a_machine_or_a_registry() -> None:
    found = [f"{path}: {match[0]}" for path, text in _texts() for match in PRIVATE.finditer(text)]
    assert not found, "\n".join(found)


def test_nothing_is_left_unfinished() -> None:
    found = [f"{path}: {match[0]}" for path, text in _texts() for match in UNFINISHED.finditer(text)]
    assert not found, "\n".join(found)


def test_the_package_prints_nothing() -> None:
    found = []
    for path in _package():
        if path.parent.name != "cli" and path.name != "__main__.py":
            calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            found += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if _is_print(call)]
    assert not found, f"print() outside the command line: {found}"


def _is_print(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "print"


def test_public_names_have_docstrings() -> None:
    bare = []
    for path in _package():
        tree = ast.parse(path.read_text())
        public = _declared(tree)
        for node in _documentable(tree):
            if node.name in public and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not bare, "public, but without a docstring:\n" + "\n".join(bare)


def test_public_methods_have_docstrings() -> None:
    bare = []
    for path in _package():
        for node in _documentable(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not _told_elsewhere(node):
                methods = (method for method in _documentable(node) if not _is_told_by_its_class(method))
                bare += [f"{path.relative_to(ROOT)}:{m.lineno} {node.name}.{m.name}" for m in methods]
    assert not bare, "public, but without a docstring:\n" + "\n".join(bare)


def _documentable(body: ast.Module | ast.ClassDef) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in body.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]


def _told_elsewhere(node: ast.ClassDef) -> bool:
    """A protocol tells its members in comments, beside their types."""
    return any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)


def _is_told_by_its_class(method: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    setter = any(ast.unparse(decorator).endswith((".setter", "override")) for decorator in method.decorator_list)
    return method.name.startswith("_") or method.name == "forward" or setter or bool(ast.get_docstring(method))


def _declared(tree: ast.Module) -> set[str]:
    """The public names of a module: its `__all__`, or else every name without an underscore."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, defined) and not node.name.startswith("_")}


def test_modules_that_define_something_have_the_future_import() -> None:
    line = "from __future__ import annotations"
    bare = [str(path.relative_to(ROOT)) for path in _package() if line not in path.read_text() and _defines(path)]
    assert not bare, bare


def _defines(path: Path) -> bool:
    return any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in ast.parse(path.read_text()).body)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_a_first_notebook() -> None:
    assert ROOT / "notebooks" / "01_live_studio.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_carry_no_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"], "stored widget state needs a network to be shown"
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), f"cell {cell.get('id')} carries outputs"
        assert cell.get("execution_count") is None, f"cell {cell.get('id')} carries an execution count"
