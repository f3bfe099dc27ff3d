"""A real browser, headless: Debian's chromium and chromium-driver."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

REQUIRED = "DECONVNET_NEEDS_CHROMIUM"  # environment: a missing browser is a failure, not a reason to skip


def start(folder: Path) -> Iterator[Chrome]:
    """A browser that keeps its own files in a folder, and logs what pages say and ask for. Skips where there is none.
    """
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        message = "no chromium and chromedriver on the path (Debian, Ubuntu: apt install chromium chromium-driver)"
        pytest.fail(message) if os.environ.get(REQUIRED) else pytest.skip(message)
    options = ChromeOptions()
    options.binary_location = found[0]
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", f"--user-data-dir={folder}"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(found[1]))
    yield driver
    driver.quit()


def asked_for(driver: Chrome) -> list[str]:
    """The addresses that pages from the disk asked for since the last call; the browser's own start page is another."""
    messages = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [one["request"]["url"] for one in asked if one["documentURL"].startswith("file:")]


def resize(driver: Chrome, width: int, height: int, phone: bool = False) -> None:
    """The size of the page's view, in CSS pixels."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone})
