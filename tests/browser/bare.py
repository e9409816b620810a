"""A page that no inspector watches: a usual page of a test reports all its messages, which costs time and memory.

A notebook's messages with pictures are copied, encoded and kept for the inspector. That took a tenth of a core, and
what the page's process held grew without end, so that it is no place to measure speed or memory in.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from pathlib import Path
from typing import Any

PUMP_S = 0.02


class Outcome:
    """What a function of the page gave."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def json_value(self) -> Any:
        return self._value


class BarePage:
    """As much of a page as `Notebook` needs, driven from the browser's own session.

    Args:
        browser: The browser.
        width: Width of the page in pixels.
        height: Its height.
    """

    def __init__(self, browser: Any, width: int = 1280, height: int = 1000) -> None:
        self._session = browser.new_browser_cdp_session()
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._target = self._session.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session.on("Target.receivedMessageFromTarget", self._hear)
        attached = self._session.send("Target.attachToTarget", {"targetId": self._target, "flatten": False})
        self._name = attached["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", size)
        self.send("Emulation.setFocusEmulationEnabled", {"enabled": True})

    @property
    def context(self) -> BarePage:
        """What is closed in the end: the page itself."""
        return self

    def close(self) -> None:
        """Close the page."""
        self._session.send("Target.closeTarget", {"targetId": self._target})
        self._session.detach()

    def send(self, method: str, options: dict[str, Any] | None = None, timeout_s: float = 60) -> dict[str, Any]:
        """Send a command of the browser's protocol and wait for its answer."""
        number = next(self._numbers)
        message = json.dumps({"id": number, "method": method, "params": options or {}})
        self._session.send("Target.sendMessageToTarget", {"sessionId": self._name, "message": message})
        end = time.monotonic() + timeout_s
        while number not in self._answers:
            if time.monotonic() > end:
                raise TimeoutError(f"the page did not answer {method} within {timeout_s} s")
            self.wait_for_timeout(1000 * PUMP_S)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, script: str, arg: Any = None) -> Any:
        """Call a function in the page; promises are waited for."""
        options = {"expression": f"({script})({json.dumps(arg)})", "awaitPromise": True, "returnByValue": True}
        answer = self.send("Runtime.evaluate", options, 180)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def goto(self, url: str, wait_until: str = "") -> None:
        """Go to an address."""
        self.send("Page.navigate", {"url": url})

    def wait_for_function(self, script: str, timeout: float, polling: float = 100) -> Outcome:
        """Wait until a function gives something true."""
        end = time.monotonic() + timeout / 1000
        while True:
            value = self.evaluate(script)
            if value:
                return Outcome(value)
            if time.monotonic() > end:
                raise TimeoutError(f"not within {timeout} ms: {script}")
            self.wait_for_timeout(polling)

    def wait_for_timeout(self, ms: float) -> None:
        """Wait, and take in what comes meanwhile."""
        time.sleep(ms / 1000)
        self._session.send("Browser.getVersion")

    def screenshot(self, path: Any) -> None:
        """Save what the page shows as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def on(self, event: str, listener: Any) -> None:
        """Nothing is reported: that is the point of it."""

    def _hear(self, event: dict[str, Any]) -> None:
        if event["sessionId"] == self._name:
            message = json.loads(event["message"])
            if "id" in message:
                self._answers[message["id"]] = message
