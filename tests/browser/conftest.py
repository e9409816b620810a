"""A JupyterLab server and a headless Chromium for the tests of this folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
START_S, KERNEL_S = 90, 90
# Without WebGL: a software GPU would take a core of its own from what is measured here.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]


def chromium_path() -> str | None:
    """Chromium as named by `STUDIO_CHROMIUM`, or the first one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("STUDIO_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing; run: pip install playwright")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on this machine; install it, or name one in STUDIO_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Lab:
    """A running JupyterLab."""

    folder: Path
    url: str

    def add(self, name: str, cells: list[str]) -> str:
        """Write a notebook of code cells; returns its name."""
        code = [
            {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
            for i, text in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = {"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (self.folder / name).write_text(json.dumps(notebook))
        return name


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A JupyterLab server on an empty folder, with the repository importable in its kernels."""
    with serve() as lab:
        yield lab


@contextmanager
def serve(*more: str) -> Iterator[Lab]:
    """Run a JupyterLab server on an empty folder.

    Args:
        more: Further arguments for it.

    Yields:
        The server.
    """
    with tempfile.TemporaryDirectory(prefix="studio-lab-") as folder:
        root = Path(folder)
        for name in ("work", "config", "data", "runtime", "ipython"):
            (root / name).mkdir()
        # The question about news would cover what the tests look at.
        settings = root / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        arguments = ["--no-browser", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
        arguments += [f"--ServerApp.root_dir={root / 'work'}", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"]
        arguments += ["--allow-root", *more]
        with (root / "log").open("wb") as log:
            command = [sys.executable, "-m", "jupyterlab", *arguments]
            server = subprocess.Popen(command, env=jupyter_environment(root), stdout=log, stderr=log)
        try:
            yield Lab(folder=root / "work", url=_address(server, root / "log"))
        finally:
            end(server)


def jupyter_environment(root: Path) -> dict[str, str]:
    """The environment of a Jupyter server that keeps its files in a folder and finds this repository."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
        "IPYTHONDIR": str(root / "ipython"),
    }


def end(server: subprocess.Popen) -> None:
    """End a server, and wait for it."""
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()


def _address(server: subprocess.Popen, log: Path) -> str:
    """Wait for the server and read its address from its log."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace"))
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended at once:\n{log.read_text(errors='replace')}")
        if found:
            url = f"http://127.0.0.1:{found[1]}"
            try:
                urllib.request.urlopen(url + "/api", timeout=5).read()
                return url
            except OSError:
                pass
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start within {START_S} s:\n{log.read_text(errors='replace')}")


# What the console says in a healthy JupyterLab without our widget; everything else counts.
# A busy machine makes anywidget give a model up while it loads; the studio goes on past that.
HARMLESS = ("favicon", "ResizeObserver loop", "[anywidget] Failed to initialize model")


@dataclass
class Notebook:
    """A notebook open in the browser."""

    page: Any
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note errors of the console and requests that leave this machine."""
        self.page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("request", self._on_request)

    def open(self) -> None:
        """Load the notebook and wait until its kernel is idle."""
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until the notebook is there and the kernel has nothing to do."""
        idle = """() => {
            const widget = window.jupyterapp?.shell?.currentWidget;
            return widget?.context?.isReady && widget.sessionContext?.session?.kernel?.status === 'idle';
        }"""
        self.page.wait_for_function(idle, timeout=KERNEL_S * 1000, polling=200)

    @property
    def running(self) -> bool:
        """Whether a cell is being run; the kernel's own state tells of messages to widgets as well."""
        return "[*]:" in self.page.locator(".jp-InputPrompt").all_text_contents()

    def command(self, name: str, wait: bool = False) -> None:
        """Run a command of JupyterLab, by default without waiting for its end."""
        call = f"window.jupyterapp.commands.execute({name!r})"
        self.page.evaluate(f"async () => {{ await {call}; }}" if wait else f"() => {{ {call}; }}")

    def run_all(self) -> None:
        """Run all cells, without waiting for their end."""
        self.command("notebook:run-all-cells")

    def until(self, script: str, what: str, timeout_s: float = 60) -> Any:
        """Wait until a script gives something true, and return it."""
        try:
            return self.page.wait_for_function(script, timeout=timeout_s * 1000, polling=50).json_value()
        except Exception as error:
            raise AssertionError(
                f"{what} did not happen within {timeout_s} s; console: {self.errors[-5:]}; page: {self.picture()}"
            ) from error

    def picture(self) -> str:
        """Save what the page shows, for whoever reads of a failure; where, or why not."""
        path = Path(os.environ.get("STUDIO_SCREENSHOTS") or tempfile.gettempdir()) / f"studio-page-{time.time_ns()}.png"
        try:
            self.page.screenshot(path=path)
        except Exception as error:  # A page that hangs, or one that is driven without pictures.
            return f"no picture ({error})"
        return str(path)

    def execute(self, code: str) -> str:
        """Run code in the kernel, beside the cells; returns what it prints."""
        return self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({ code, store_history: false });
                let text = '';
                future.onIOPub = (message) => {
                    if (message.header.msg_type === 'stream') text += message.content.text;
                    if (message.header.msg_type === 'error') text += message.content.traceback.join('\\n');
                };
                await future.done;
                return text;
            }""",
            code,
        ).strip()

    def until_told(self, code: str, expected: str, timeout_s: float = 60) -> None:
        """Wait until code in the kernel prints a text."""
        end = time.monotonic() + timeout_s
        while (told := self.execute(code)) != expected:
            assert time.monotonic() < end, f"{code} gave {told!r}, not {expected!r}, for {timeout_s} s"
            self.page.wait_for_timeout(100)

    def settled(self) -> None:
        """Wait until nothing in the studios is on its way to another place, and the page was painted since."""
        # Asked again and again from here: a wait for a function takes the promise itself for an answer.
        still = """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(
            [...document.querySelectorAll('.ls-studio')].every((root) =>
                root.getAnimations({ subtree: true }).every((one) => one.playState !== 'running')
                && root.querySelector('.ls-easing') === null)))))"""
        end = time.monotonic() + 60
        while not self.page.evaluate(still):
            assert time.monotonic() < end, "something in a studio moved for 60 s"

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme and wait until the studios have its colours."""
        self.page.evaluate(
            "(name) => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })", name
        )
        self.page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=name, timeout=20000)
        # The style sheet comes after the name; a studio asks for its colours every two seconds.
        self.page.wait_for_function(
            """(dark) => {
                const light = getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').trim();
                const told = [...document.querySelectorAll('.ls-studio')].map((root) => root.dataset.theme);
                return told.every((name) => name === (dark ? 'dark' : 'light'))
                    && (light.startsWith('#fff') || light === 'white' || light === 'rgb(255, 255, 255)') !== dark;
            }""",
            arg="Dark" in name,
            timeout=30_000,
        )
        self.settled()

    def _note(self, text: str) -> None:
        if not any(part in text for part in HARMLESS):
            self.errors.append(text)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")):
            self.foreign.append(request.url)


@pytest.fixture
def open_notebook(browser: Any, lab: Lab) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks of the lab's folder in pages of their own."""
    with pages(browser, lab) as open_one:
        yield open_one


@contextmanager
def pages(browser: Any, lab: Lab) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks of a server's folder in pages of their own, until the end."""
    contexts = []

    def open_one(name: str, width: int = 1280, height: int = 1000) -> Notebook:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        notebook = Notebook(page=context.new_page(), url=f"{lab.url}/doc/tree/{name}?reset")
        notebook.watch()
        notebook.open()
        return notebook

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Folder for pictures: `STUDIO_SCREENSHOTS`, or a temporary one."""
    folder = Path(os.environ.get("STUDIO_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
