"""Chromium without a window, for the tests of web pages."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PATIENCE = 60.0  # seconds
CAMERA = "camera.mjpeg"  # what the camera sees


class Browser:
    """One page in Chromium.

    Args:
        folder: of downloads.
    """

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, address: str) -> None:
        """Goes to a page, and forgets which hosts were asked before."""
        self.driver.get_log("performance")
        self.driver.get(address)

    def script(self, text: str, *arguments: Any) -> Any:
        """What JavaScript returns."""
        return self.driver.execute_script(text, *arguments)

    def give(self, selector: str, file: Path) -> None:
        """Chooses a file in an input of the page."""
        wait_until(lambda: self.driver.find_elements("css selector", selector))
        self.driver.find_element("css selector", selector).send_keys(str(file.absolute()))

    def click(self, selector: str) -> None:
        """Clicks an element."""
        self.driver.find_element("css selector", selector).click()

    def download(self, selector: str, name: str) -> Path:
        """The file of this name that comes after a click."""
        self.click(selector)
        path = self.folder / name
        # The browser takes the name with an empty file, and moves the whole one there when it has come.
        wait_until(
            lambda: path.is_file() and path.stat().st_size > 0, lambda: f"{name}, found {[*self.folder.iterdir()]}"
        )
        return path

    def show_to_camera(self, photo: Path) -> None:
        """Holds a JPEG before the camera, which the page may then use."""
        shutil.copyfile(photo, self.folder / CAMERA)
        self.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["videoCapture"]})

    def press(self, *keys: str) -> None:
        """Types keys, by their names in selenium's Keys or as characters."""
        known = pytest.importorskip("selenium.webdriver").Keys
        chain = pytest.importorskip("selenium.webdriver").ActionChains(self.driver)
        chain.send_keys(*(getattr(known, key, key) for key in keys)).perform()

    def tab_to(self, selector: str) -> None:
        """Moves the focus with the tabulator until it is on this element."""
        script = "return document.activeElement.matches(arguments[0])"
        for _ in range(50):
            if self.script(script, selector):
                return
            self.press("TAB")
        pytest.fail(f"{selector} cannot be reached by keyboard")

    @contextmanager
    def as_wide_as(self, width: int) -> Iterator[None]:
        """A screen of this width, such as that of a phone."""
        size = {"width": width, "height": 2 * width, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
            assert self.script("return document.documentElement.scrollWidth") <= width
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def texts(self, selector: str) -> list[str]:
        """The labels or texts of all elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.ariaLabel ?? one.innerText.trim())"
        return self.script(script, selector)

    def wait_for_text(self, selector: str, text: str) -> None:
        """Waits until the first of these elements has this text."""
        wait_until(lambda: self.texts(selector)[:1] == [text], lambda: f"{text!r}, found {self.texts(selector)}")

    def picture(self, selector: str) -> np.ndarray:
        """What is seen of an element: RGB, (height, width, 3)."""
        png = self.driver.find_element("css selector", selector).screenshot_as_png
        return np.asarray(Image.open(BytesIO(png)).convert("RGB"))

    def wait_until_painted(self, selector: str) -> None:
        """Waits until the picture of an element has more than a few colours."""

        def colours() -> int:
            found = self.driver.find_elements("css selector", selector)
            return len(np.unique(self.picture(selector).reshape(-1, 3), axis=0)) if found else 0

        wait_until(lambda: colours() > 500, lambda: f"a painted {selector}, it has {colours()} colours")

    def hosts(self) -> set[str]:
        """The hosts that the page has asked for anything."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return {url.split("/")[2] for url in asked if url.startswith(("http", "ws"))}


def wait_until(done: Callable[[], Any], what: Callable[[], str] = lambda: "something") -> None:
    """Fails after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"waited for {what()}"
        time.sleep(0.1)


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Starts Chromium; skips the test where it is not installed. folder: of downloads."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1400"):
        options.add_argument(argument)
    options.add_argument("--force-prefers-reduced-motion")  # what moves is drawn all the time
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument(f"--use-file-for-fake-video-capture={folder / CAMERA}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield Browser(running, folder)
    finally:
        running.quit()
