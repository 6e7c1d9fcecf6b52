"""Serves a web page that reads the faces in visitors' photos: `python -m jointface.app`."""

import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from jointface.command_line import entry_point
from jointface.errors import ConfigError
from jointface.files import write_atomically
from jointface.inference.face_tables import face_entry, face_table, to_csv
from jointface.inference.output_folder import why_skipped
from jointface.inference.photo_overlay import photo_overlay
from jointface.inference.reader import FaceReader
from jointface.synthesis.portraits import example_photos

log = logging.getLogger("jointface.app")

READER_KEYS = ("finder", "two_passes", "device", "backend", "max_faces", "min_score")
LONGEST = 1600  # pixels of an overlay
SHOWN = 12  # attributes of a face
KEPT = 3600  # seconds for which the files of a photo are kept after its visitor has left
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine; Gradio's own come from another host
TABLE = "faces.csv"
START = "Choose a photo, or take one with the camera."
ABOUT = """# JointFace
One network reads the 3D shape and the attributes of every face in a photo. The photo goes to the machine that serves
this page and no further; it is deleted there within an hour after you have left."""


@dataclass(frozen=True)
class PhotoFiles:
    """The files of a visitor's photo. folder: of TABLE, face_1.glb, ... attributes: of each face."""

    folder: Path | None = None
    attributes: list[dict[str, float]] = field(default_factory=list)

    @property
    def table(self) -> str | None:
        """The table's file."""
        return None if self.folder is None else str(self.folder / TABLE)

    def of_face(self, number: int) -> tuple[str | None, dict[str, float] | None]:
        """The mesh's file of a face, from 1, and its attributes as people read them; None where there are none."""
        assert self.folder is not None
        path = self.folder / f"face_{number}.glb"
        bars = {name.replace("_", " "): value for name, value in self.attributes[number - 1].items()}
        return str(path) if path.is_file() else None, bars or None

    def remove(self) -> None:
        """Deletes the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def app(config: DictConfig) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ConfigError: a setting makes no sense, Gradio is missing, or the port is taken. CheckpointError: the checkpoint
            is missing or broken.
    """
    if find_spec("gradio") is None:
        raise ConfigError("the web page needs Gradio: pip install 'jointface[app]'")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
    reader = FaceReader.load(config.checkpoint, **{key: config[key] for key in READER_KEYS})
    page = build_page(reader, example_photos() if config.examples else [])
    serve(page, config.host, config.port)
    log.info("The page is http://%s:%s; Ctrl-C ends it", config.host, config.port)
    page.block_thread()


def serve(page: Any, host: str, port: int | None) -> None:
    """Starts serving a page. Raises a ConfigError where the port is taken."""
    import gradio

    try:
        page.launch(
            server_name=host, server_port=port, theme=gradio.themes.Soft(font=FONTS, font_mono=FONTS),
            footer_links=[], prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"host={host} port={port}: cannot be served there; choose another port") from error


def build_page(reader: FaceReader, examples: list[np.ndarray]) -> Any:
    """The page, a `gradio.Blocks`."""
    import gradio

    with gradio.Blocks(title="JointFace", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        files = gradio.State(PhotoFiles(), time_to_live=KEPT, delete_callback=PhotoFiles.remove)
        gradio.Markdown(ABOUT)
        with gradio.Row():
            with gradio.Column():
                photo: Any = gradio.Image(label="Photo", type="filepath", height=360)
                # `read` opens it, and says what is amiss.
                photo.preprocess = lambda payload: payload and payload.path
                if examples:
                    gradio.Examples([[example] for example in examples], photo, label="Drawn people")
            with gradio.Column():
                message = gradio.Markdown(START, elem_id="message")
                # Without "share", which sends the picture to another host.
                buttons: list[Any] = ["download", "fullscreen"]
                overlay = gradio.Image(label="Reading", interactive=False, format="jpeg", height=360, buttons=buttons)
        chosen = gradio.Radio(label="Face", visible=False)
        with gradio.Row():
            mesh = gradio.Model3D(label="Shape, drag to turn it", interactive=False, height=400)
            bars = gradio.Label(label="Attributes", num_top_classes=SHOWN, show_heading=False)
        with gradio.Row():
            mesh_file = gradio.DownloadButton("Mesh of this face (.glb)", interactive=False)
            table_file = gradio.DownloadButton("Table of all faces (.csv)", interactive=False)

        def show_face(files: PhotoFiles, number: int | None) -> tuple[Any, ...]:
            """Mesh, bars and the mesh's download of a face."""
            path, bars = files.of_face(number) if number else (None, None)
            return path, bars, gradio.DownloadButton(value=path, interactive=path is not None)

        def show_photo(path: str | None, before: PhotoFiles) -> tuple[Any, ...]:
            """All that is shown of a photo, or of none."""
            before.remove()
            text, picture, files = read(reader, path) if path else (START, None, PhotoFiles())
            numbers = [*range(1, len(files.attributes) + 1)]
            first = 1 if numbers else None
            return (
                files, text, picture, gradio.Radio(numbers, value=first, visible=len(numbers) > 1),
                gradio.DownloadButton(value=files.table, interactive=bool(numbers)), *show_face(files, first),
            )  # fmt: skip

        of_face = [mesh, bars, mesh_file]
        shown = [files, message, overlay, chosen, table_file, *of_face]
        photo.change(show_photo, [photo, files], shown, api_name="read")
        chosen.input(show_face, [files, chosen], of_face, api_name="face")
    return page


def read(reader: FaceReader, path: str) -> tuple[str, np.ndarray | None, PhotoFiles]:
    """Reads a photo: what was found in a sentence, its overlay, and its files in a folder of their own."""
    (reading,) = reader.read([path])
    photo, faces = reading.photo, reading.faces
    if (reason := why_skipped(reading)) or photo is None:
        return f"This does not work: {reason}.", None, PhotoFiles()
    folder = Path(tempfile.mkdtemp(prefix="jointface_"))
    for number, face in enumerate(faces, 1):
        if face.vertices is not None:
            face.save(folder / f"face_{number}.glb")
    height, width = photo.image.shape[:2]
    of_photo = {"photo": photo.name, "width": width, "height": height}
    entries = [of_photo | face_entry(face, number) for number, face in enumerate(faces, 1)]
    write_atomically(folder / TABLE, to_csv(face_table(entries)))
    text = "One face." if len(faces) == 1 else f"{len(faces)} faces, the largest first."
    return text, photo_overlay(photo, faces, LONGEST), PhotoFiles(folder, [face.attributes for face in faces])


@entry_point("app")
def main(config: DictConfig) -> None:
    """Serves the page of the config."""
    app(config)


if __name__ == "__main__":
    main()
