"""JupyterLab here, the kernel elsewhere: training and playing through a kernel gateway, at the same time."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import START_S, end, jupyter_environment, pages, serve

SETUP = """import tempfile
from pathlib import Path
import studio
from studio import train
from studio.model.weights import save
folder = Path(tempfile.mkdtemp(prefix="studio-"))
models = train.pocket_models(seed=1)
save(models, folder / "model")
session = studio.open(folder / "model", prompt="a red fox runs in the snow", device="cpu")
player = studio.Studio(session, inspect=False)
player"""
TRAIN = """config = train.pretrain_preset("pocket", out=str(folder / "run"), steps=100_000, batch=2, pool=4,
                               preview_every=3, save_every=50_000, device="cpu")
run = train.pretrain(config, networks=train.TrainedNetworks.of(models))"""
# A kernel loads PyTorch, plays and trains on what a test machine has left.
WAIT_S = 240
CONNECTION = "--ServerApp.kernel_websocket_connection_class=studio.widgets.gateway.GatewayConnection"
PICTURE = "document.querySelectorAll('.ls-picture')[{}]"
FRAME = f"Number(({PICTURE}?.dataset.frame) ?? -1)"
PLOT = "document.querySelector('.jupyter-widgets img')?.src ?? ''"
LINE = "[...document.querySelectorAll('.widget-label')].map((one) => one.textContent).join(' ')"


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """The address of a kernel gateway on this machine."""
    if importlib.util.find_spec("kernel_gateway") is None:
        pytest.skip("the kernel gateway is missing; run: pip install jupyter_kernel_gateway")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="studio-gateway-") as folder:
        command = [sys.executable, "-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"]
        command += [f"--KernelGatewayApp.port={port}", "--KernelGatewayApp.auth_token=secret"]
        # JupyterLab looks at the kernels that there are, to come back to one.
        command += ["--JupyterWebsocketPersonality.list_kernels=True"]
        # Kernels of a gateway get what is named of its environment and nothing else.
        environment = jupyter_environment(Path(folder)) | {"KG_ENV_PROCESS_WHITELIST": "PYTHONPATH,OMP_NUM_THREADS"}
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            server = subprocess.Popen(command, cwd=folder, env=environment, stdout=sink, stderr=sink)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url, server, log)
            yield url
        finally:
            end(server)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/api?token=secret", timeout=5).read()
            return
        except OSError as error:
            ended = server.poll() is not None or time.monotonic() > deadline
            if ended:
                raise RuntimeError(f"the gateway did not start:\n{log.read_text(errors='replace')}") from error
            time.sleep(0.2)


def test_training_and_playing_through_a_gateway(browser: Any, gateway: str, screenshots: Path) -> None:
    with (
        serve(f"--gateway-url={gateway}", "--GatewayClient.auth_token=secret", CONNECTION) as lab,
        pages(browser, lab) as open_notebook,
    ):
        lab.add("remote.ipynb", [SETUP, TRAIN, "print('the end of', run.state)"])
        notebook = open_notebook("remote.ipynb", height=2200)
        page = notebook.page
        notebook.run_all()
        notebook.until(f"() => {FRAME.format(0)} > 3", "the playing studio", WAIT_S)

        # The training cell runs, and its bar, its curves and its clips come while it does.
        notebook.until(f"() => {FRAME.format(1)} >= 0", "a preview in its player", WAIT_S)
        notebook.until(f"() => /step \\d+ of 100000 · .* left, .* GiB/.test({LINE})", "the line of progress", WAIT_S)
        notebook.until(f"() => ({PLOT}).startsWith('blob:')", "the curves", WAIT_S)
        plot, at = page.evaluate(f"() => {PLOT}"), page.evaluate(f"() => {FRAME.format(0)}")
        notebook.until(f"() => ({PLOT}) !== {plot!r}", "newer curves", WAIT_S)
        notebook.until(f"() => {FRAME.format(0)} > {at + 12}", "the studio playing on meanwhile", WAIT_S)
        assert notebook.running

        # It is steered while the training cell runs, and so is the training.
        box = page.locator(".ls-compose textarea").first
        box.fill("a blue cat sleeps in the forest")
        box.press("Enter")
        segments = "document.querySelectorAll('.ls-studio')[0].querySelectorAll('.ls-segment').length"
        notebook.until(f"() => {segments} === 2", "the switch", WAIT_S)
        assert notebook.running
        for name in ("Light", "Dark"):
            notebook.theme(f"JupyterLab {name}")
            page.screenshot(path=screenshots / f"training-{name.lower()}.png")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("the end of stopped").wait_for(timeout=WAIT_S * 1000)
        told = notebook.execute(
            "from studio.train.snapshots import newest; print(newest(folder / 'run' / 'checkpoints'))"
        )
        assert told.endswith(notebook.execute("print(f'step-{run.trainer.done:08d}')"))
        assert notebook.execute("print(session.error, player.errors)") == "None []"
        # Behind a gateway there is the older protocol of messages only, and the page tries the newer one first.
        assert [said for said in notebook.errors if "Sec-WebSocket-Protocol" not in said] == []
