"""Makes docs/figures/web.jpg: `python -m bench.web_picture SITE`.

SITE is a folder that `python -m jointface.export format=web` wrote. Chromium shows it in light and in dark, each with
the photo of two drawn people.
"""

import io
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from selenium import webdriver

OUTPUT = Path("docs/figures/web.jpg")
WIDTH, HEIGHT = 1000, 950
EXAMPLE = "#examples button:last-child"


def picture(driver: webdriver.Chrome, address: str, scheme: str) -> Image.Image:
    """The page after it has read the example."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(address)
    wait(driver, f"document.querySelector('{EXAMPLE}:enabled')")
    driver.find_element("css selector", EXAMPLE).click()
    wait(driver, "document.querySelector('meter')")
    time.sleep(2)  # until the shape has turned a little
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def wait(driver: webdriver.Chrome, expression: str) -> None:
    """Waits until a JavaScript expression is true."""
    while not driver.execute_script(f"return Boolean({expression})"):
        time.sleep(0.1)


def main(site: str) -> None:
    """Writes the picture."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        sheet = Image.new("RGB", (2 * WIDTH, HEIGHT))
        for place, scheme in enumerate(("light", "dark")):
            sheet.paste(picture(driver, f"http://127.0.0.1:{server.server_port}", scheme), (place * WIDTH, 0))
        driver.quit()
        server.shutdown()
    sheet.save(OUTPUT, quality=85)


if __name__ == "__main__":
    main(sys.argv[1])
