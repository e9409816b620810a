#!/usr/bin/env python3
"""Sets the studio up and uses it, with nothing but a Python on the machine.

    python3 run.py lab     set up, then open the live notebook in JupyterLab
    python3 run.py test    set up, then run every check and test (--quick: without the browser)

Everything goes into `.venv` beside this file; a second call finds it up to date and starts at once.

Environment:
    STUDIO_TORCH_INDEX  address of a package index to take PyTorch from, as its install page names one for each
                        CUDA version and for the CPU; without it pip's own index decides.
    STUDIO_FIXTURES     folder of the parity fixtures; `../shared/fixtures` without it.
"""

# This file must parse on any Python 3, so that an old one gets a sentence and not a SyntaxError.
import sys

if sys.version_info < (3, 11):
    sys.exit(
        "run.py needs Python 3.11 or newer, got {}.{} ({}); use a newer one, as in `python3.12 run.py lab`".format(
            sys.version_info[0], sys.version_info[1], sys.executable
        )
    )

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REPORTS = VENV / "reports"
FRONT_END = ROOT / "studio" / "widgets" / "js"
FIRST_NOTEBOOK = ROOT / "notebooks" / "01_live_studio.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OLDEST_NODE = 20


@dataclass(frozen=True)
class Outcome:
    """What one stage came to.

    Args:
        name: As shown in the table.
        seconds: Wall-clock time.
        passed, failed, skipped: Counts of tests; a check counts as one.
        reason: Why something was skipped or could not run.
    """

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""


# --- setting up -----------------------------------------------------------------------------------------------------


def venv_program(name: str) -> str:
    """Returns the path of a program of the virtual environment, on any system."""
    return str(VENV / ("Scripts/" + name + ".exe" if os.name == "nt" else "bin/" + name))


def quietly(command: list[str], label: str, log: Path, cwd: Path = ROOT) -> float:
    """Runs a long command behind one progress line; its own words go to a log, shown when it fails.

    Returns:
        Seconds taken.

    Raises:
        SystemExit: If the command fails.
    """
    start = time.monotonic()
    shown = 0.0
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if not sys.stdout.isatty():
            print(f"{label} ...", flush=True)
        while process.poll() is None:
            time.sleep(0.2)
            elapsed = time.monotonic() - start
            if sys.stdout.isatty():
                print(f"\r{label} ... {elapsed:.0f} s", end="", flush=True)
            elif elapsed - shown >= 30:
                shown = elapsed
                print(f"{label} ... {elapsed:.0f} s", flush=True)
    elapsed = time.monotonic() - start
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if "is ignored" not in line]
        print("\n" + "\n".join(lines[-30:]))
        raise SystemExit(f"{label} failed (exit code {process.returncode}); the whole log is {log}")
    print(f"\r{label}: {elapsed:.0f} s", flush=True)
    return elapsed


def digest(*parts: str) -> str:
    """Returns a hash of some texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def torch_pin() -> str:
    """Returns the requirement for the PyTorch that was tested, such as `torch==2.13.0`."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.strip() for line in pins if line.startswith("torch=="))


def set_up(extra: str = "") -> None:
    """Creates the virtual environment and installs the studio into it, unless that is done already.

    Args:
        extra: An extra of pyproject.toml to install as well, or nothing.
    """
    index = os.environ.get("STUDIO_TORCH_INDEX", "")
    stamp = VENV / "studio-stamp.json"
    try:
        installed = json.loads(stamp.read_text())
    except (OSError, ValueError):
        installed = {}
    extras = sorted({extra, *installed.get("extras", [])} - {""})
    requirements = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    wanted = {
        "place": digest(sys.version, str(ROOT), index),
        "requirements": digest(*requirements),
        "extras": extras,
    }
    if installed == wanted:
        return
    # The scripts of an environment hold its path, and a wheel of PyTorch from another index has the same version.
    if installed.get("place") != wanted["place"] or not Path(venv_program("python")).exists():
        create_venv()
    stamp.unlink(missing_ok=True)
    install(extras, index)
    stamp.write_text(json.dumps(wanted))


def create_venv() -> None:
    """Creates an empty virtual environment, replacing a broken or outdated one."""
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stdout + result.stderr)
        remedy = f"; on Debian and Ubuntu: apt install python3.{sys.version_info[1]}-venv"
        raise SystemExit(f"could not create {VENV}" + (remedy if sys.platform == "linux" else ""))


def install(extras: list[str], index: str) -> None:
    """Installs the studio from this checkout, with the versions that were tested.

    Args:
        extras: Extras of pyproject.toml.
        index: Address of a package index for PyTorch alone, or nothing.
    """
    REPORTS.mkdir(exist_ok=True)
    pip = [venv_program("python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    if index:
        # Without its dependencies, which such an index seldom carries: the next call brings them.
        quietly([*pip, "--no-deps", "--index-url", index, torch_pin()], "installing PyTorch", REPORTS / "torch.log")
    elif sys.platform == "linux" and shutil.which("nvidia-smi") is None:
        print("No NVIDIA GPU here. If pip starts to fetch gigabytes of CUDA packages, stop it, set STUDIO_TORCH_INDEX")
        print("to the address of PyTorch's CPU packages, which its install page names, and call again.")
    suffix = f"[{','.join(extras)}]" if extras else ""
    command = [*pip, "--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}{suffix}"]
    quietly(command, f"installing the studio{suffix}", REPORTS / "pip.log")
    # JupyterLab's question about news would be the first thing that a newcomer sees.
    settings = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    settings.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": quiet}))


def front_end_tools() -> str:
    """Installs the front end's packages when Node is there.

    Returns:
        Nothing, or the reason why the front end cannot be tested.

    Raises:
        SystemExit: If the packages cannot be installed.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return f"no Node.js on this machine: install version {OLDEST_NODE} or newer to build and test the front end"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if int(re.sub(r"\D.*", "", version.lstrip("v")) or 0) < OLDEST_NODE:
        return f"Node.js {version} is too old: install version {OLDEST_NODE} or newer to build and test the front end"
    lock = hashlib.sha256((FRONT_END / "package-lock.json").read_bytes()).hexdigest()
    stamp = FRONT_END / "node_modules" / ".studio-stamp"
    if not stamp.exists() or stamp.read_text() != lock:
        command = [npm, "ci", "--no-audit", "--no-fund"]
        quietly(command, "installing the front end's tools", REPORTS / "npm.log", FRONT_END)
        stamp.write_text(lock)
    return ""


def browser() -> tuple[str, str]:
    """Finds Chromium, or installs it where that needs no more than apt and the rights to use it.

    Returns:
        Its path and nothing, or nothing and the reason why there is none.
    """
    found = os.environ.get("STUDIO_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")
    if found:
        return found, ""
    remedy = "no Chromium on this machine: install it, or name one in STUDIO_CHROMIUM"
    if shutil.which("apt-get") is None:
        return "", remedy
    if os.geteuid() != 0:
        return "", "no Chromium on this machine and no rights to install it: sudo apt-get install chromium"
    try:
        quietly(["apt-get", "update", "-q"], "reading apt's package lists", REPORTS / "apt-update.log")
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
        command = ["apt-get", "install", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", "chromium"]
        quietly([*command, "--no-install-recommends"], "installing Chromium", REPORTS / "apt.log")
    except SystemExit as error:
        return "", str(error)
    found = next(filter(None, map(shutil.which, BROWSERS)), "")
    return found, "" if found else remedy


# --- lab ------------------------------------------------------------------------------------------------------------


def lab(arguments: list[str]) -> int:
    """Opens the live notebook in JupyterLab.

    Args:
        arguments: Handed to JupyterLab as they are, such as `--no-browser --port 9000`.

    Returns:
        JupyterLab's exit code.
    """
    set_up()
    command = [venv_program("python"), "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}"]
    # As the default page and not as a file to open, so that the address it prints leads there too.
    command.append(f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK.relative_to(ROOT).as_posix()}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # Jupyter refuses root otherwise, which is who one is in most containers
    command += arguments
    if os.name == "posix":
        # This process becomes JupyterLab, so that whatever ends this command ends it.
        os.chdir(ROOT)
        os.execv(command[0], command)
    try:
        return subprocess.call(command, cwd=ROOT)
    except KeyboardInterrupt:
        return 0


# --- test -----------------------------------------------------------------------------------------------------------


def headline(name: str) -> None:
    """Announces a stage."""
    print(f"\n--- {name} " + "-" * max(0, 100 - len(name)), flush=True)


def check(name: str, command: list[str], cwd: Path = ROOT) -> Outcome:
    """Runs a check that passes or fails as one."""
    headline(name)
    start = time.monotonic()
    code = subprocess.call(command, cwd=cwd)
    seconds = time.monotonic() - start
    return Outcome(name, seconds, passed=int(code == 0), failed=int(code != 0))


def skip(name: str, reason: str) -> Outcome:
    """Notes a stage that this machine cannot run."""
    headline(name)
    print(f"SKIPPED: {reason}")
    return Outcome(name, skipped=1, reason=reason)


def pytest(name: str, arguments: list[str], environment: dict[str, str] | None = None) -> list[Outcome]:
    """Runs pytest.

    Returns:
        One outcome for the whole and, where tests of several folders ran, one for each folder, named with an indent.
    """
    headline(name)
    report = REPORTS / f"{re.sub('[^a-z]+', '-', name)}.xml"
    report.unlink(missing_ok=True)
    command = [venv_program("python"), "-m", "pytest", f"--junitxml={report}", "--durations=5", *arguments]
    start = time.monotonic()
    code = subprocess.call(command, cwd=ROOT, env={**os.environ, **(environment or {})})
    return pytest_outcomes(name, report, code, time.monotonic() - start)


def pytest_outcomes(name: str, report: Path, code: int, seconds: float) -> list[Outcome]:
    """Reads counts and times out of a report of pytest."""
    folders: dict[str, list[float]] = {}
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else []
    for case in cases:
        parts = case.get("classname", "").split(".")
        folder = parts[1] if parts[0] == "tests" and len(parts) > 2 else "."
        counts = folders.setdefault(folder, [0.0, 0, 0, 0])
        failed = case.find("failure") is not None or case.find("error") is not None
        counts[0] += float(case.get("time", 0))
        counts[2 if failed else 3 if case.find("skipped") is not None else 1] += 1
    passed, failed, skipped = (int(sum(counts[i] for counts in folders.values())) for i in (1, 2, 3))
    if code and not failed:
        # A crash, an interrupt or no test found: a stage must not pass because its report is missing.
        failed, reason = 1, f"pytest ended with exit code {code}"
    else:
        reason = ""
    rows = [Outcome(name, seconds, passed, failed, skipped, reason)]
    if len(folders) > 1:
        rows += [Outcome(f"  {folder}", t, int(p), int(f), int(s)) for folder, (t, p, f, s) in sorted(folders.items())]
    return rows


def vitest() -> Outcome:
    """Runs the front end's own tests."""
    name = "front end: tests"
    headline(name)
    report = REPORTS / "vitest.json"
    report.unlink(missing_ok=True)
    npm = str(shutil.which("npm"))
    reporters = ["--reporter=default", "--reporter=json", f"--outputFile.json={report}"]
    start = time.monotonic()
    code = subprocess.call([npm, "test", "--silent", "--", *reporters], cwd=FRONT_END)
    seconds = time.monotonic() - start
    try:
        counts = json.loads(report.read_text())
    except (OSError, ValueError):
        counts = {}
    passed, failed = counts.get("numPassedTests", 0), counts.get("numFailedTests", 0)
    skipped = counts.get("numPendingTests", 0) + counts.get("numTodoTests", 0)
    if code and not failed:
        return Outcome(name, seconds, passed, 1, skipped, f"vitest ended with exit code {code}")
    return Outcome(name, seconds, passed, failed, skipped)


def front_end() -> list[Outcome]:
    """Tests the front end and proves that the committed bundle is built from the committed source."""
    try:
        reason = front_end_tools()
    except SystemExit as error:
        return [Outcome("front end", failed=1, reason=str(error))]
    if reason:
        return [skip("front end", reason)]
    npm = str(shutil.which("npm"))
    return [
        check("front end: types", [npm, "run", "--silent", "types"], FRONT_END),
        vitest(),
        check("front end: bundle up to date", [npm, "run", "--silent", "check"], FRONT_END),
    ]


def browser_test() -> list[Outcome]:
    """Drives the first notebook in a real JupyterLab and a real browser."""
    path, reason = browser()
    if not path:
        return [skip("browser", reason)]
    arguments, environment = ["tests/browser", "-m", "browser"], {"STUDIO_CHROMIUM": path}
    rows = pytest("browser", arguments, environment)
    if not rows[0].failed:
        return rows
    # A real browser on a busy machine can miss a deadline: what failed gets one more try, and the summary says so.
    return [second_try(rows[0], pytest("browser, second try", [*arguments, "--last-failed"], environment)[0])]


def second_try(first: Outcome, again: Outcome) -> Outcome:
    """Puts the outcome of a stage and of another try of its failed tests together, and says what was tried twice."""
    return replace(
        first,
        seconds=first.seconds + again.seconds,
        passed=first.passed + again.passed,
        failed=max(again.failed, first.failed - again.passed),
        reason=f"{first.failed} failed at the first try, {again.passed} of them passed at the second",
    )


def test(quick: bool) -> int:
    """Runs every check and test.

    Args:
        quick: Leave the browser out.

    Returns:
        0 if nothing failed, 1 otherwise.
    """
    start = time.monotonic()
    if not sys.stdout.isatty():
        os.environ.setdefault("NO_COLOR", "1")  # logs are read by people and programs that see no colours
    set_up("test")
    REPORTS.mkdir(exist_ok=True)
    rows = [Outcome("set up", time.monotonic() - start)]
    python, ruff = venv_program("python"), venv_program("ruff")
    rows.append(check("ruff: lint", [ruff, "check", "."]))
    rows.append(check("ruff: format", [ruff, "format", "--check", "."]))
    if shutil.which("node"):
        rows.append(check("pyright", [venv_program("pyright"), "--pythonpath", python]))
    else:
        rows.append(skip("pyright", "no Node.js on this machine, which the type checker runs on"))
    # More than four processes would want more memory than a laptop has; each has its share of the processors, because
    # threads that wait for each other crawl where others want the processors as well.
    cores = os.cpu_count() or 1
    workers = min(4, cores)
    threads = {name: str(max(1, cores // workers)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    rows += pytest("pytest", ["-m", "not browser", f"--numprocesses={workers}", "--dist=worksteal"], threads)
    rows += front_end()
    rows += [skip("browser", "left out by --quick")] if quick else browser_test()
    return summary(rows, time.monotonic() - start)


def summary(rows: list[Outcome], seconds: float) -> int:
    """Prints the table of stages, every reason for a skip, and a closing line with the counts."""
    headline("summary")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'stage':<32}{'seconds':>9}{'passed':>9}{'failed':>9}{'skipped':>9}")
    for row in rows:
        print(f"{row.name:<32}{row.seconds:>9.1f}{row.passed:>9}{row.failed:>9}{row.skipped:>9}")
    print(f"{'in all':<32}{seconds:>9.1f}")
    for row in rows:
        if row.reason:
            word = "FAILED" if row.failed else "SKIPPED" if row.skipped else "NOTE"
            print(f"{word} {row.name}: {row.reason}")
    whole = [row for row in rows if not row.name.startswith(" ")]
    passed, failed, skipped = (sum(getattr(row, key) for row in whole) for key in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(failed > 0)


# --- command line ---------------------------------------------------------------------------------------------------


def main() -> int:
    """Reads the command line and runs its command."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=pyproject["project"]["description"])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lab", help="set up, then open the live notebook in JupyterLab (its options may follow)")
    tests = commands.add_parser("test", help="set up, then run every check and test")
    tests.add_argument("--quick", action="store_true", help="leave the browser out")
    options, rest = parser.parse_known_args()
    if options.command == "lab":
        return lab(rest)
    if rest:
        parser.error(f"unknown option {rest[0]}")
    return test(options.quick)


if __name__ == "__main__":
    sys.exit(main())
