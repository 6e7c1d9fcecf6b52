"""Reads the faces in photos: `python -m jointface.predict input=photo.jpg checkpoint=PATH`."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from jointface.command_line import entry_point
from jointface.errors import ConfigError, InputError
from jointface.inference.face_tables import require_parquet
from jointface.inference.input_files import InputFile, find_files
from jointface.inference.reader import FaceReader, Reading
from jointface.inference.results import Outputs, Results, printable, state_of

log = logging.getLogger("jointface.predict")

SECONDS_BETWEEN_LINES = 60.0  # where the output is no terminal
READER_KEYS = ("finder", "two_passes", "device", "batch_size", "backend", "max_faces", "min_score")
CHANGES_RESULTS = ("two_passes", "backend", "max_faces", "min_score")  # and the files or names of these:
READ_WITH = ("checkpoint", "finder")


def predict(config: DictConfig) -> int:
    """Reads all photos that are not done yet, and writes what `jointface.inference.results` lists.

    A file that is no photo or has no face is skipped.

    Returns:
        Number of faces.

    Raises:
        ConfigError: a setting makes no sense. CheckpointError: the checkpoint is missing or broken.
        InputError: there is no input, or no face in any photo. DataError: results cannot be written.
    """
    outputs = validate_config(config)
    folder = Path(config.output_dir)
    files = find_files(_as_list(config.input), leave_out=Results.own_paths(folder))
    made_with = {key: config[key] for key in CHANGES_RESULTS} | {key: state_of(Path(config[key])) for key in READ_WITH}
    results = Results(folder, outputs, made_with)
    waiting = [file for file in files if not results.is_done(file)]
    if len(waiting) < len(files):
        log.info("%d of %d photos are done already", len(files) - len(waiting), len(files))
    if waiting:
        reader = FaceReader.load(config.checkpoint, **{key: config[key] for key in READER_KEYS})
        read_photos(reader, waiting, results)
    faces, skipped = results.finish(files, config.parquet)
    reasons = f"{_count(skipped, 'file')} skipped, {folder / 'skipped.csv'} says why"
    if not faces:
        raise InputError(f"no face in any photo; {reasons}")
    results_of = f"{_count(faces, 'face')} of {_count(len(files) - skipped, 'photo')}"
    log.info("In %s: %s%s", folder.absolute(), results_of, f"; {reasons}" if skipped else "")
    return faces


def validate_config(config: DictConfig) -> Outputs:
    """Raises a ConfigError that names the setting that makes no sense."""
    if config.input in (None, "", []):
        raise ConfigError("nothing to read: set input=photo.jpg, a folder, a pattern such as 'photos/*.jpg', or a list")
    if config.checkpoint is None:
        raise ConfigError(
            "no checkpoint, and the package has no weights of its own yet: set checkpoint=RUN/checkpoints/best.ckpt; "
            "python -m jointface.train makes one in about ten minutes"
        )
    for key in ("overlay", "parquet", "two_passes"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}={config[key]}: expected true or false")
    for key in ("batch_size", "max_faces", "overlay_side"):
        value = config[key]
        if (type(value) is not int or value < 1) and not (key == "max_faces" and value is None):
            raise ConfigError(f"{key}={value}: expected a whole number above 0")
    for key in ("mesh_scale", "min_score"):
        value = config[key]
        if type(value) not in (int, float) and not (key == "min_score" and value is None):
            raise ConfigError(f"{key}={value}: expected a number")
    if config.parquet:
        require_parquet()
    return Outputs(tuple(_as_list(config.meshes)), config.mesh_scale, config.overlay, config.overlay_side)


def read_photos(reader: FaceReader, files: Sequence[InputFile], results: Results) -> None:
    """Reads photos and writes their results, with a progress bar, or lines where the output is no terminal."""
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}",
               TimeRemainingColumn())  # fmt: skip
    done, start = 0, time.monotonic()
    with Progress(*columns) as progress:
        line = start
        task = progress.add_task("Photos", total=len(files), rate="")
        try:
            for file, reading in zip(files, reader.read([file.path for file in files]), strict=True):
                for message in messages(file, reading, results.write(file, reading)):
                    progress.console.print(message, markup=False, highlight=False, soft_wrap=True)
                done, now = done + 1, time.monotonic()
                rate = f"{done / (now - start):.1f} photos/s"
                progress.update(task, advance=1, rate=rate)
                if not progress.console.is_terminal and now - line >= SECONDS_BETWEEN_LINES:
                    line = now
                    log.info("%d of %d photos, %s", done, len(files), rate)
        except KeyboardInterrupt:
            log.info("Stopped after %d of %d photos; the same command continues there", done, len(files))
            raise
    log.info("%s in %.1f s, %s", _count(done, "photo"), now - start, rate)


def messages(file: InputFile, reading: Reading, skipped: str | None) -> list[str]:
    """What there is to say of a photo: why it was skipped, or what of the file the picture does not show."""
    if skipped is not None:
        return [printable(f"skipped {file.path}: {skipped}")]
    return [printable(f"{file.path}: {note}") for note in (reading.photo.notes if reading.photo else [])]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_list(setting: Any) -> list[str]:
    return [str(value) for value in setting] if isinstance(setting, ListConfig | list) else [str(setting)]


@entry_point("predict")
def main(config: DictConfig) -> None:
    """Reads the photos of the config."""
    predict(config)


if __name__ == "__main__":
    main()
