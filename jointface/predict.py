"""Reads the faces in photos and videos: `python -m jointface.predict input=photo.jpg`."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from jointface.command_line import entry_point
from jointface.errors import ConfigError, InputError
from jointface.inference.face_tables import require_parquet
from jointface.inference.input_files import InputFile, find_files
from jointface.inference.output_folder import Outputs, Results, printable, state_of
from jointface.inference.ray_engine import read_shards, require_ray
from jointface.inference.reader import FaceReader, Reading
from jointface.inference.shards import ShardResults, count_photos, make_shards
from jointface.inference.tracking import FaceTracker
from jointface.inference.video_files import CAMERA, Video, is_video, require_video
from jointface.inference.video_results import VideoOutputs, VideoRecorder
from jointface.modules.checkpoint import model_path
from jointface.settings import as_list, require_whole_number

log = logging.getLogger("jointface.predict")

ENGINES = ("local", "ray")
SECONDS_BETWEEN_LINES = 60.0  # where the output is no terminal
READER_KEYS = ("finder", "two_passes", "device", "batch_size", "backend", "max_faces", "min_score")
CHANGES_RESULTS = ("two_passes", "backend", "max_faces", "min_score")  # and the files or names of these:
WHOLE_NUMBERS = ("batch_size", "max_faces", "overlay_side", "look_every", "ray.workers", "ray.shard_size")
MAY_BE_NULL = ("max_faces", "ray.workers")
CHANGES_VIDEOS = ("look_every", "smooth", "moving_mesh", "parquet")


def predict(config: DictConfig) -> int:
    """Reads all photos and videos that are not done yet, and writes what `jointface.inference.output_folder` lists.

    A file that is neither or has no face is skipped.

    Returns:
        Number of faces.

    Raises:
        ConfigError: a setting makes no sense. CheckpointError: the checkpoint is missing or broken.
        InputError: there is no input, or no face in any of it. DataError: results cannot be written.
    """
    outputs = validate_config(config)
    if config.engine == "ray":
        return predict_on_ray(config)
    folder = Path(config.output_dir)
    inputs = [str(given) for given in as_list(config.input)]
    found = [given for given in inputs if not given.startswith(CAMERA)]
    files = find_files(found, leave_out=Results.own_paths(folder)) if found else []
    files += [_recording(given) for given in inputs if given.startswith(CAMERA)]
    made_with = _made_with(config)
    results = Results(folder, outputs, made_with)
    of_videos = Results(folder, outputs, made_with | {key: config[key] for key in CHANGES_VIDEOS})
    photos = [file for file in files if not is_video(file.path)]
    videos = [file for file in files if is_video(file.path)]
    if videos:
        require_video(videos[0].path)
    noun = "file" if videos else "photo"
    waiting = [file for file in photos if not results.is_done(file)]
    unread = [file for file in videos if not of_videos.is_done(file)]
    if done := len(files) - len(waiting) - len(unread):
        log.info("%d of %d %ss are done already", done, len(files), noun)
    if waiting or unread:
        reader = FaceReader.load(config.checkpoint, **{key: config[key] for key in READER_KEYS})
        if waiting:
            read_photos(reader, waiting, results)
        for file in unread:
            tracker = FaceTracker(reader, config.look_every, config.smooth)
            read_video(tracker, file, of_videos, VideoOutputs(config.moving_mesh, config.parquet))
    faces, skipped = results.finish(files, config.parquet)
    reasons = f"{_count(skipped, 'file')} skipped, {folder / 'skipped.csv'} says why"
    if not faces:
        raise InputError(f"no face in any {noun}; {reasons}")
    results_of = f"{_count(faces, 'face')} of {_count(len(files) - skipped, noun)}"
    log.info("In %s: %s%s", folder.absolute(), results_of, f"; {reasons}" if skipped else "")
    return faces


def predict_on_ray(config: DictConfig) -> int:
    """`predict` for collections that outgrow a machine: tables in shards, no pictures and meshes."""
    require_ray()
    folder = Path(config.output_dir).absolute()
    files = find_files([str(given) for given in as_list(config.input)], leave_out=ShardResults.own_paths(folder))
    shards = make_shards(files, config.ray.shard_size)
    made_with = _made_with(config)
    results = ShardResults(folder, made_with)
    waiting = [shard for shard in shards if not results.is_done(shard)]
    if done := len(shards) - len(waiting):
        log.info("%d of %d shards are done already", done, len(shards))
    if waiting:
        settings = {key: config[key] for key in READER_KEYS} | {
            "checkpoint": str(model_path(config.checkpoint).absolute())
        }
        FaceReader.load(**settings)  # what is wrong with it is said here, before anything starts
        counts = {shard.number: count_photos(shard) for shard in waiting}
        with _Progress("photo", sum(counts.values())) as progress:
            for number in read_shards(waiting, results, settings, config.ray.address, config.ray.workers):
                progress.advance(counts[number])
    faces, skipped = results.finish(shards)
    reasons = f"{_count(skipped, 'photo')} skipped, {folder / 'skipped.csv'} says why"
    if not faces:
        raise InputError(f"no face in any photo; {reasons}")
    log.info("In %s: %s%s", folder, _count(faces, "face"), f"; {reasons}" if skipped else "")
    return faces


def _made_with(config: DictConfig) -> dict[str, Any]:
    """The settings and the files on which the results depend."""
    files = {"checkpoint": model_path(config.checkpoint), "finder": Path(config.finder)}
    return {key: config[key] for key in CHANGES_RESULTS} | {key: state_of(path) for key, path in files.items()}


def validate_config(config: DictConfig) -> Outputs:
    """Raises a ConfigError that names the setting that makes no sense."""
    if config.input in (None, "", []):
        raise ConfigError("nothing to read: set input=photo.jpg, a folder, a pattern such as 'photos/*.jpg', or a list")
    if config.engine not in ENGINES:
        raise ConfigError(f"engine={config.engine}: choose from {', '.join(ENGINES)}")
    for key in ("overlay", "parquet", "two_passes", "smooth", "moving_mesh"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}={config[key]}: expected true or false")
    for key in WHOLE_NUMBERS:
        if (value := OmegaConf.select(config, key)) is not None or key not in MAY_BE_NULL:
            require_whole_number(key, value, 1)
    for key in ("mesh_scale", "min_score"):
        value = config[key]
        if type(value) not in (int, float) and not (key == "min_score" and value is None):
            raise ConfigError(f"{key}={value}: expected a number")
    if config.parquet:
        require_parquet()
    return Outputs(tuple(as_list(config.meshes)), config.mesh_scale, config.overlay, config.overlay_side)


def read_photos(reader: FaceReader, files: Sequence[InputFile], results: Results) -> None:
    """Reads photos and writes their results, with a progress bar, or lines where the output is no terminal."""
    done = 0
    with _Progress("photo", len(files)) as progress:
        try:
            for file, reading in zip(files, reader.read([file.path for file in files]), strict=True):
                for message in messages(file, reading, results.write(file, reading)):
                    progress.say(message)
                done += 1
                progress.advance()
        except KeyboardInterrupt:
            log.info("Stopped after %d of %d photos; the same command continues there", done, len(files))
            raise


def read_video(tracker: FaceTracker, file: InputFile, results: Results, more: VideoOutputs) -> None:
    """Reads a video and writes its results, with progress as of photos. Ctrl-C ends a recording of a camera."""
    results.folder.mkdir(parents=True, exist_ok=True)
    camera = str(file.path).startswith(CAMERA)
    with TemporaryDirectory(dir=results.folder, prefix=".video_", ignore_cleanup_errors=True) as scratch:
        try:
            video = Video(file.path)
        except InputError as error:
            results.take_video(file, 0, {}, str(error).removeprefix(f"{file.path}: "))
            log.info("skipped %s", error)
            return
        sound = None if camera else file.path
        recorder = VideoRecorder(Path(scratch), file.name, video, results.outputs, more, sound)
        log.info("Reading %s%s", file.path, "; Ctrl-C ends it" if camera else "")
        with _Progress("picture", video.count) as progress, suppress(*[KeyboardInterrupt] * camera):
            for frame in video:
                recorder.add(frame, [] if frame.image is None else tracker(frame.image, frame.time))
                progress.advance()
        video.close()
        written = recorder.finish() if recorder.people else {}
        reason = None if recorder.people else "no face was found"
        results.take_video(file, recorder.people, written, reason)
    for note in [*video.notes, *([f"skipped: {reason}"] if reason else [])]:
        log.info("%s: %s", file.path, note)


def _recording(camera: str) -> InputFile:
    """A recording that starts now; its name is that of no other."""
    name = camera.replace(":", "_").replace("/", "_")
    return InputFile(Path(camera), f"{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")


class _Progress:
    """A bar that counts what is read, or a line a minute where the output is no terminal.

    Args:
        noun: what is counted. total: None where it is not known.
    """

    def __init__(self, noun: str, total: int | None) -> None:
        columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(),
                   "{task.fields[rate]}", TimeRemainingColumn())  # fmt: skip
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(f"{noun.capitalize()}s", total=total, rate="")
        self._noun, self._total, self._done = noun, total, 0
        self._start = self._line = time.monotonic()

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, fault: type[BaseException] | None, *_: Any) -> None:
        self._bar.stop()
        if fault is None:
            seconds = time.monotonic() - self._start
            log.info("%s in %.1f s, %s", _count(self._done, self._noun), seconds, self._rate())

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def advance(self, count: int = 1) -> None:
        """So many more are read."""
        self._done, now = self._done + count, time.monotonic()
        self._bar.update(self._task, advance=count, rate=self._rate())
        if not self._bar.console.is_terminal and now - self._line >= SECONDS_BETWEEN_LINES:
            self._line = now
            of_all = "" if self._total is None else f" of {self._total}"
            log.info("%d%s %ss, %s", self._done, of_all, self._noun, self._rate())

    def _rate(self) -> str:
        return f"{self._done / max(time.monotonic() - self._start, 1e-9):.1f} {self._noun}s/s"


def messages(file: InputFile, reading: Reading, skipped: str | None) -> list[str]:
    """What there is to say of a photo: why it was skipped, or what of the file the picture does not show."""
    if skipped is not None:
        return [printable(f"skipped {file.path}: {skipped}")]
    return [printable(f"{file.path}: {note}") for note in (reading.photo.notes if reading.photo else [])]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@entry_point("predict")
def main(config: DictConfig) -> None:
    """Reads the photos of the config."""
    predict(config)


if __name__ == "__main__":
    main()
