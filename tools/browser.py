"""A headless Chromium, driven through a pipe by the DevTools protocol, for tests and pictures of pages.

https://chromedevtools.github.io/devtools-protocol: messages are JSON that ends with a zero byte. There is no port, and
nothing to install but Debian's `chromium-headless-shell`, `chromium`, or whatever Chrome there is.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import tempfile
from base64 import b64decode
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

NAMES: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS: Final = (
    *("--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--disable-lcd-text", "--lang=en"),
)


def browser_path() -> str | None:
    """Where one is."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


class BrowserFailed(Exception):
    """It has said no, or thrown."""


class Browser:
    """A browser that runs."""

    def __init__(self, commands: asyncio.WriteTransport) -> None:
        """Made by `browser`."""
        self._commands = commands
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Have it do something."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._commands.write(json.dumps(message if session is None else {**message, "sessionId": session}).encode())
        self._commands.write(b"\0")
        async with asyncio.timeout(60):
            return await answer

    def hear(self, message: dict[str, Any]) -> None:
        """Take what it says."""
        if (number := message.get("id")) is None:
            if (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.hear(message["method"], message["params"])
        elif not (answer := self._answers.pop(number)).done():
            if "error" in message:
                answer.set_exception(BrowserFailed(message["error"]["message"]))
            else:
                answer.set_result(message["result"])

    async def open(self, url: str, *, width: int = 1100, height: int = 900, scale: float = 1.0, **media: str) -> Tab:
        """Show a page in a tab of its own.

        Args:
            url: its address.
            width: of the window, in CSS pixels.
            height: likewise.
            scale: pixels of a picture for each of those.
            media: preferences such as `prefers_color_scheme="dark"`.
        """
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.send(f"{domain}.enable")
        await tab.resize(width, height, scale)
        await tab.prefer(**media)
        await tab.send("Page.navigate", url=url)
        return tab


class Tab:
    """A page that is shown."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        """Made by `Browser.open`."""
        self._browser = browser
        self._session = session
        self._target = target
        self.complaints: list[str] = []
        """Errors and warnings of its console, and what it has thrown."""
        self.requests: list[str] = []
        """What it has asked for, by address."""

    def hear(self, event: str, details: dict[str, Any]) -> None:
        """Note what is of interest."""
        if event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(details["exceptionDetails"].get("exception", details["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(details["args"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something with it."""
        return await self._browser.send(method, self._session, **parameters)

    async def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Have a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        await self.send("Emulation.setDeviceMetricsOverride", **size)

    async def prefer(self, **media: str) -> None:
        """Have a user of these preferences, such as `prefers_color_scheme="dark"`."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def evaluate(self, script: str) -> Any:
        """What an expression is, in the page; of a promise, what comes of it."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait for an expression to become true, looked at every 20 ms."""
        return await self.evaluate(
            f"new Promise(done => {{ const look = () => {{ let found = null; try {{ found = {condition} }} catch {{}}"
            " found ? done(found instanceof Node || found) : setTimeout(look, 20) }; look() })"
        )

    async def press(self, key: str, code: int = 0) -> None:
        """Press a key and let it go."""
        keys = {"key": key, "windowsVirtualKeyCode": code or _CODES[key]}
        await self.send("Input.dispatchKeyEvent", type="rawKeyDown", **keys)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **keys)

    async def picture(self, element: str | None = None) -> bytes:
        """A picture of the window, or of an element, as PNG."""
        clip: dict[str, Any] = {}
        if element is not None:
            box = await self.evaluate(
                f"(({{x, y, width, height}}) => ({{x: x + scrollX, y: y + scrollY, width, height, scale: 1}}))"
                f"(document.querySelector({element!r}).getBoundingClientRect())"
            )
            clip = {"clip": box, "captureBeyondViewport": True}
        shot = await self.send("Page.captureScreenshot", format="png", **clip)
        return b64decode(shot["data"])

    async def close(self) -> None:
        """Leave the page."""
        await self._browser.send("Target.closeTarget", targetId=self._target)


_CODES: Final = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run a browser for as long as the block lasts.

    Raises:
        BrowserFailed: there is none.
    """
    if (path := browser_path()) is None:
        raise BrowserFailed(f"none of these is installed: {', '.join(NAMES)}")
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        (its_end, commands), (answers, its_other_end) = os.pipe(), os.pipe()
        # It wants them as descriptors 3 and 4, which is what a shell can do.
        script = f'exec "$@" 3</dev/fd/{its_end} 4>/dev/fd/{its_other_end}'
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", script, "sh", path, *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=[its_end, its_other_end],
            start_new_session=True,
        )
        os.close(its_end)
        os.close(its_other_end)
        reader = asyncio.StreamReader(limit=2**26)
        hears = asyncio.StreamReaderProtocol(reader)
        reading, _ = await loop.connect_read_pipe(lambda: hears, os.fdopen(answers, "rb"))
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(commands, "wb"))
        running = Browser(writing)
        listening = asyncio.create_task(_listen(reader, running))
        try:
            yield running
        finally:
            listening.cancel()
            reading.close()
            writing.close()
            await _end(process)


async def _listen(reader: asyncio.StreamReader, running: Browser) -> None:
    with suppress(asyncio.IncompleteReadError):
        while True:
            running.hear(json.loads((await reader.readuntil(b"\0"))[:-1]))


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: all of its processes
    await process.wait()
