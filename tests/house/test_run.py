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
