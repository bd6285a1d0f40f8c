"""A headless Chromium that looks at a page as a reader does: for the tests and for bench_report.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pool import Problem

WIDE, NARROW = (1400, 1000), (390, 844)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def found() -> tuple[str, str]:
    """Chromium and its driver."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise Problem("Chromium", "is not on PATH with its chromedriver", "Debian: apt-get install chromium chromium-driver.")
    return browser, driver


@contextmanager
def chromium() -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, driver = found()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--force-device-scale-factor=1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(running)
    finally:
        running.quit()


class Browser:
    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def screen(self, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, page: Path) -> None:
        self.driver.get(page.resolve().as_uri())

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def choose(self, name: str, value: str) -> None:
        """A value of one of the page's filters, as a hand would choose it."""
        from selenium.webdriver.support.ui import Select

        Select(self.one(f"#filters select[name={name}]")).select_by_value(value)

    def complaints(self) -> list[str]:
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def shoot(self, path: Path, top: str | None = None) -> None:
        """What is on the screen, with the element `top` at its upper edge."""
        if top is not None:
            self.js("document.querySelector(arguments[0]).scrollIntoView()", top)
        path.write_bytes(self.driver.get_screenshot_as_png())
