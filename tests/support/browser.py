"""Chromium without a window, controlled through pipes by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
# Without these, the browser itself connects to its vendor.
_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-features=OptimizationHints,MediaRouter,DialMediaRouteProvider",
)
# The browser reads commands from descriptor 3 and writes replies to descriptor 4.
_LAUNCHER = """
import os, sys
commands, replies = os.dup(int(sys.argv[1])), os.dup(int(sys.argv[2]))
commands, replies = (os.dup(each) if each in (3, 4) else each for each in (commands, replies))
os.dup2(commands, 3)
os.dup2(replies, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a browser. `messages` has what the page logged, and each exception and violation; `requested` the
    URLs that it requested.
    """

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = commands, replies
        self._pending = b""
        self._last_id = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.requested: list[str] = []

    def attach(self) -> None:
        """Open a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, height: int = 900, is_dark: bool = False) -> None:
        """Load a file, with new lists of messages and requests."""
        self.messages.clear()
        self.requested.clear()
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._wait_for("Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited. Raises AssertionError for an exception."""
        options = {"returnByValue": True, "awaitPromise": True, "allowUnsafeEvalBlockedByCSP": False}
        done = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def screenshot(self, path: Path, width: int, height: int) -> None:
        """Save the upper part of the page."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def print_pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result. Raises AssertionError if the browser refuses it or does not reply."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._last_id:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]

    def _wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser did not reply"
            chunk = os.read(self._replies, _CHUNK_BYTES)
            assert chunk, "the browser has ended"
            self._pending += chunk
        text, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
            if message["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.messages.append(json.dumps(message["params"]))
            if message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
        return message


@contextmanager
def run_browser(profile: Path, proxy_port: int) -> Iterator[Browser]:
    """A browser whose connections go to a proxy, until the block ends."""
    command_read, command_write = os.pipe()
    reply_read, reply_write = os.pipe()
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"),
        *(f"--user-data-dir={profile}", f"--proxy-server=http://127.0.0.1:{proxy_port}"),
        *("--proxy-bypass-list=<-loopback>", *_QUIET),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(command_read), str(reply_write), "chromium", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(command_read, reply_write),
        start_new_session=True,
    )
    os.close(command_read)
    os.close(reply_write)
    try:
        browser = Browser(command_write, reply_read)
        browser.attach()
        yield browser
    finally:
        os.close(command_write)
        os.close(reply_read)
        process.terminate()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
