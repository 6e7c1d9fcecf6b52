"""Web pages that read photos: one that Gradio serves, and a static one that runs the network in the browser."""

import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import trimesh
from hydra import compose, initialize_config_dir

from jointface import FaceReader
from jointface.app import app, build_page, read, serve
from jointface.command_line import CONF_DIR
from jointface.detection.finders import OwnFinder
from jointface.errors import ConfigError
from jointface.inference import web_page
from jointface.inference.face_tables import face_entry, face_table
from jointface.inference.onnx_network import OnnxNetwork
from tests.browser import Browser, wait_until

if not (find_spec("gradio") and find_spec("onnxscript")):  # their imports take seconds in every process that collects
    pytest.skip("needs the extras app and onnx", allow_module_level=True)


@pytest.fixture(scope="module")
def reader(onnx_file: Path) -> FaceReader:
    """The real finder, and an untrained network."""
    return FaceReader(OnnxNetwork(onnx_file), OwnFinder())


@pytest.fixture(scope="module")
def photos(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photos of one face, of two faces in 30 megapixels, of none, and a text."""
    folder, portrait = tmp_path_factory.mktemp("photos"), real_data / "portraits" / "photos" / "001.jpg"
    pair = np.tile(cv2.resize(cv2.imread(str(portrait)), (3900, 3900)), (1, 2, 1))
    for name, picture in {"two": pair, "none": np.full((200, 300, 3), 128, np.uint8)}.items():
        cv2.imwrite(str(folder / f"{name}.jpg"), picture)
    (folder / "text.jpg").write_text("not a photo")
    return {"one": portrait} | {name: folder / f"{name}.jpg" for name in ("two", "none", "text")}


@pytest.fixture(scope="module")
def address(reader: FaceReader) -> Iterator[str]:
    """Of the page that is served."""
    page = build_page(reader, [])
    serve(page, "127.0.0.1", None)
    yield page.local_url
    page.close()


@pytest.mark.parametrize(
    ("name", "text", "faces"),
    [
        ("one", "One face.", 1),
        ("two", "2 faces, the largest first.", 2),
        ("none", "This does not work: no face was found", 0),
        ("text", "This does not work: not a picture that can be read", 0),
    ],
)
def test_the_served_page_has_a_sentence_for_every_photo(
    name: str, text: str, faces: int, reader: FaceReader, photos: dict[str, Path]
) -> None:
    said, overlay, files = read(reader, str(photos[name]))
    assert said.startswith(text)
    assert len(files.attributes) == faces
    assert (overlay is not None) == bool(faces)
    if faces:
        assert max(overlay.shape) <= 1600
        assert len(pd.read_csv(files.table)) == faces
        assert Path(files.of_face(faces)[0]).read_bytes()[:4] == b"glTF"
        files.remove()
        assert not files.folder.exists()


def test_visitors_of_the_served_page_at_once_get_their_own_answers(address: str, photos: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    def visit(name: str) -> str:
        return Client(address, verbose=False).predict(handle_file(photos[name]), api_name="/read")[0]

    with ThreadPoolExecutor(3) as visitors:
        answers = [*visitors.map(visit, ("one", "none", "text"))]
    assert [answer.split(":")[0] for answer in answers] == ["One face.", *["This does not work"] * 2]


def test_the_served_page_shows_what_python_says(
    address: str, browser: Browser, reader: FaceReader, photos: dict[str, Path]
) -> None:
    browser.open(address)
    browser.give("input[type=file]", photos["one"])
    browser.wait_for_text("#message", "One face.")
    (face,) = reader(photos["one"])
    first = max(face.attributes, key=lambda name: face.attributes[name]).replace("_", " ")
    browser.wait_for_text("meter", first)
    browser.wait_until_painted("canvas")
    assert browser.hosts() == {address.split("/")[2]}


def test_the_served_page_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("app")
    with pytest.raises(ConfigError, match=r"needs Gradio: pip install 'jointface\[app\]'"):
        app(config)


@pytest.fixture(scope="module")
def site(reader: FaceReader, onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_page, "example_photos", lambda: [np.full((8, 8, 3), 99, np.uint8)] * 4)
        web_page.write_page(folder, onnx_file, reader.facts)
    return folder


@pytest.fixture(scope="module")
def static_page(site: Path, browser: Browser) -> Browser:
    """The browser with the page, which is loaded; its server is gone."""
    quiet = type("Handler", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_port}")
        browser.wait_for_text("#message", "Ready.")
        server.shutdown()
    return browser


def test_the_static_page_shows_what_python_says_without_a_server(
    static_page: Browser, reader: FaceReader, photos: dict[str, Path]
) -> None:
    static_page.give("#file", photos["one"])
    static_page.wait_for_text("#message", "One face.")
    (face,) = reader(photos["one"])
    first = max(face.attributes, key=lambda name: face.attributes[name])
    static_page.wait_for_text("meter", first.replace("_", " "))
    assert static_page.script("return document.querySelector('meter').value") == pytest.approx(
        face.attributes[first], abs=0.02
    )
    static_page.wait_until_painted("#overlay")
    static_page.wait_until_painted("#shape")
    mesh = trimesh.load(static_page.download("#mesh", "001_1.glb"), force="mesh")
    assert np.abs(mesh.vertices - face.mesh().vertices).max() < 0.01 * face.box.size
    table = pd.read_csv(static_page.download("#table", "001.csv"))
    expected = face_table([{"photo": "001.jpg", "width": 500, "height": 500} | face_entry(face, 1)])
    pixels = [column for column in expected if column.endswith("_px")]
    for columns, tolerance in ((pixels, 0.01 * face.box.size), (expected.columns.difference(pixels), 0.1)):
        pd.testing.assert_frame_equal(table[columns], expected[columns], check_dtype=False, rtol=0, atol=tolerance)
    assert [*table] == [*expected]


def test_the_static_page_takes_a_photo_with_the_camera(static_page: Browser, photos: dict[str, Path]) -> None:
    static_page.show_to_camera(photos["one"])
    static_page.click("#camera")
    static_page.wait_until_painted("#video")
    static_page.click("#take")
    static_page.wait_for_text("#message", "One face.")
    static_page.wait_until_painted("#overlay")
    assert static_page.texts("#camera, #take:not([hidden]), #video:not([hidden])") == ["Use the camera"]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("NotAllowedError", "The browser does not let this page use the camera."),
        ("NotFoundError", "There is no camera."),
        ("NotReadableError", "Another program uses the camera."),
        ("TypeError", "The camera cannot be used (as said)."),
    ],
)
def test_the_static_page_says_why_it_cannot_use_the_camera(fault: str, text: str, static_page: Browser) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('as said', arguments[0]) }"
    static_page.script(refuse, fault)
    static_page.click("#camera")
    wait_until(lambda: static_page.texts("#message")[0].startswith(text), lambda: text)
    static_page.script("delete navigator.mediaDevices.getUserMedia")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("two", "2 faces, the largest first."),
        ("none", "No face was found. Choose a photo in which a face is larger or easier to see."),
        ("text", "text.jpg is not a picture that this browser can read. Choose a JPEG, PNG or WebP file."),
    ],
)
def test_the_static_page_has_a_sentence_for_every_photo(
    name: str, text: str, static_page: Browser, photos: dict[str, Path]
) -> None:
    static_page.give("#file", photos[name])
    static_page.wait_for_text("#message", text)
    shown = static_page.texts("#results:not([hidden]) #faces button")
    assert shown == (["Face 1", "Face 2"] if name == "two" else [])


def test_the_static_page_works_by_keyboard_and_on_a_phone(static_page: Browser, photos: dict[str, Path]) -> None:
    turned = "return document.querySelector('#shape').toDataURL()"
    with static_page.as_wide_as(360):
        static_page.give("#file", photos["two"])
        static_page.wait_for_text("#message", "2 faces, the largest first.")
        static_page.tab_to("#faces button:nth-child(2)")
        static_page.press("ENTER")
        assert static_page.texts("#faces button[aria-pressed=true]") == ["Face 2"]
        static_page.tab_to("#shape")
        before = static_page.script(turned)
        static_page.press("ARROW_RIGHT", "ARROW_RIGHT")
        wait_until(lambda: static_page.script(turned) != before, lambda: "the shape to turn")


def test_the_static_page_asks_no_other_host(static_page: Browser) -> None:
    assert {host.split(":")[0] for host in static_page.hosts()} == {"127.0.0.1"}


def test_missing_npm_is_named(reader: FaceReader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web_page.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="format=web needs npm: apt-get install npm"):
        web_page.write_page(tmp_path / "site", tmp_path / "network.onnx", reader.facts)
    assert not (tmp_path / "site").exists()
