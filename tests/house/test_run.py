from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parents[2]


def test_an_old_python_can_parse_it_to_say_so() -> None:
    ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 6))


def test_it_needs_the_standard_library_only() -> None:
    import sys

    tree = ast.parse((ROOT / "run.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_checks_on_a_submission_run_it_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["exec python3 run.py test"]
    if os.name == "posix":
        assert script.stat().st_mode & stat.S_IXUSR


REPORT = """<testsuites><testsuite>
<testcase classname="tests.world.test_grammar" name="a" time="0.5"/>
<testcase classname="tests.world.test_grammar" name="b" time="0.5"><failure/></testcase>
<testcase classname="tests.live.test_session" name="c" time="1"><skipped/></testcase>
<testcase classname="tests.test_timeline" name="d" time="1"/>
<testcase classname="tests.live.test_session.TestClose" name="e" time="1"><error/></testcase>
</testsuite></testsuites>"""


def test_counts_are_read_from_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    whole, *folders = run.pytest_outcomes("pytest", report, 1, 9.0)
    assert (whole.passed, whole.failed, whole.skipped, whole.seconds) == (2, 2, 1, 9.0)
    assert {row.name.strip(): (row.passed, row.failed, row.skipped) for row in folders} == {
        "world": (1, 1, 0),
        "live": (0, 1, 1),
        ".": (1, 0, 0),
    }


def test_a_crash_counts_as_a_failure(tmp_path: Path) -> None:
    (row,) = run.pytest_outcomes("pytest", tmp_path / "missing.xml", 139, 1.0)
    assert row.failed == 1
    assert "139" in row.reason


def test_the_closing_line_has_the_counts_and_the_exit_code_follows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [run.Outcome("pytest", 2.0, 7, 0, 1), run.Outcome("  world", 1.0, 3, 0, 0), run.Outcome("ruff", 0.1, 1)]
    assert run.summary(rows, 3.0) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "8 passed, 0 failed, 1 skipped"
    assert run.summary([*rows, run.Outcome("pyright", 1.0, failed=1)], 3.0) == 1


def test_what_could_not_run_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    run.summary([run.skip("browser", "no Chromium")], 1.0)
    assert "SKIPPED browser: no Chromium" in capsys.readouterr().out


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A checkout of its own, where creating and installing are only written down."""
    made: list[str] = []
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    python = tmp_path / ".venv" / "bin" / "python"

    def create() -> None:
        made.append("create")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "venv_program", lambda name: str(python.with_name(name)))
    monkeypatch.setattr(run, "create_venv", create)
    monkeypatch.setattr(run, "install", lambda extras, index: made.append(f"install {' '.join(extras)}".strip()))
    monkeypatch.delenv("STUDIO_TORCH_INDEX", raising=False)
    return made


def test_a_second_call_finds_everything_up_to_date(calls: list[str]) -> None:
    run.set_up("test")
    run.set_up("test")
    run.set_up()
    assert calls == ["create", "install test"]


def test_the_tests_packages_come_on_top_and_stay(calls: list[str], tmp_path: Path) -> None:
    run.set_up()
    run.set_up("test")
    (tmp_path / "constraints.txt").write_text("torch==2.8.0\n")
    run.set_up()
    assert calls == ["create", "install", "install test", "install test"]


@pytest.mark.skipif(os.name != "posix", reason="no other system lets a process become another program")
def test_lab_becomes_jupyterlab(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    def execv(path: str, command: list[str]) -> None:
        assert path == command[0]
        became.append([*command, str(Path.cwd())])
        raise SystemExit

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run, "FIRST_NOTEBOOK", tmp_path / "notebooks" / "a.ipynb")
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        run.lab(["--no-browser"])
    assert calls == ["create", "install"]
    assert became[0][:3] == [str(tmp_path / ".venv" / "bin" / "python"), "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/notebooks/a.ipynb" in became[0]
    assert became[0][-2:] == ["--no-browser", str(tmp_path)]


def test_another_torch_index_starts_afresh(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run.set_up()
    monkeypatch.setenv("STUDIO_TORCH_INDEX", "file:///wheels")
    run.set_up()
    assert calls == ["create", "install", "create", "install"]


def test_a_broken_environment_is_made_again(calls: list[str], tmp_path: Path) -> None:
    run.set_up()
    (tmp_path / ".venv" / "bin" / "python").unlink()
    (tmp_path / "pyproject.toml").write_text("")
    run.set_up()
    assert calls == ["create", "install", "create", "install"]


def test_an_installation_that_failed_is_not_taken_for_done(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(extras: list[str], index: str) -> None:
        raise SystemExit("no network")

    with monkeypatch.context() as patch:
        patch.setattr(run, "install", fail)
        with pytest.raises(SystemExit, match="no network"):
            run.set_up()
    run.set_up()
    assert calls[-1] == "install"


def test_a_failing_command_shows_what_it_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    command = [sys.executable, "-c", "print('no such package'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="exit code 3"):
        run.quietly(command, "installing", tmp_path / "log", tmp_path)
    assert "no such package" in capsys.readouterr().out


def test_a_second_try_counts_what_passed_then_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    first = run.Outcome("browser", 60.0, passed=5, failed=2)
    mended = run.second_try(first, run.Outcome("again", 9.0, passed=2))
    assert (mended.passed, mended.failed, mended.seconds) == (7, 0, 69.0)
    assert run.summary([mended], 1.0) == 0
    assert "NOTE browser: 2 failed at the first try, 2 of them passed at the second" in capsys.readouterr().out
    still = run.second_try(first, run.Outcome("again", 9.0, passed=1, failed=1))
    assert (still.passed, still.failed) == (6, 1)
    assert run.second_try(first, run.Outcome("again", failed=1, reason="crashed")).failed == 2
    assert run.summary([still], 1.0) == 1
