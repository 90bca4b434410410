"""A headless Chromium for tests of pages; they are skipped only where there is none."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest


def browser() -> str:
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    program = next(found, None)
    if program is None or shutil.which("chromedriver") is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium with chromedriver here; CI must look at the page in one")
        pytest.skip("no Chromium with chromedriver here")
    return program


@contextmanager
def open_chromium(folder: Path) -> Iterator[Any]:
    """A driver of a new browser whose profile is in the folder."""
    program = browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--no-proxy-server", f"--user-data-dir={folder / 'profile'}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(executable_path=shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def sized(driver: Any, width: int, height: int = 900, *, dark: bool = False) -> None:
    """Make the window so large, and a phone if it is narrow."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def screenshot(driver: Any, file: Path) -> None:
    """Of what the window shows."""
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
    file.write_bytes(base64.b64decode(found))


def soon(driver: Any, condition: str, seconds: float = 60) -> bool:
    """Wait until a script returns something true; a busy machine takes long."""
    from selenium.webdriver.support.wait import WebDriverWait

    return bool(WebDriverWait(driver, seconds, 0.1).until(lambda d: d.execute_script(condition)))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """The address at which a server on this machine serves a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
