"""Videos and cameras as upright pictures with their times, and the video that is made of them. Needs PyAV."""

import heapq
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jointface.errors import ConfigError, DataError, InputError

ENDINGS = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
           ".webm", ".wmv")  # fmt: skip
# What may be read of them: no playlists, which name other files, and nothing from the network.
SAFE = {"protocol_whitelist": "file", "format_whitelist": "asf,avi,flv,matroska,webm,mov,mp4,mpeg,mpegts,ogg"}
CAMERA = "camera:"
DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none"), "win32": ("dshow", "video={}")}
TICKS = 90_000  # a second, in which the times of a written video are counted
FOR_BROWSERS = ("aac", "flac", "mp3", "opus")  # sound that browsers play in an MP4 file; other is made AAC
QUALITY = {"crf": "20", "preset": "veryfast"}  # of H.264

Picture = UInt8[np.ndarray, "height width 3"]


class Frame(NamedTuple):
    """A picture of a video. number: from 0. time: in seconds. image: RGB, upright; None if it is damaged."""

    number: int
    time: float
    image: Picture | None


def is_video(source: str | os.PathLike[str]) -> bool:
    """Whether a file is a video, by its ending, or a name is that of a camera."""
    return str(source).startswith(CAMERA) or Path(source).suffix.lower() in ENDINGS


def require_video(source: str | os.PathLike[str]) -> None:
    """Raises a ConfigError where PyAV, which reads and writes videos, is not installed."""
    if find_spec("av") is None:
        raise ConfigError(f"input={source} is a video, which needs PyAV: pip install 'jointface[video]'")


class Video:
    """The pictures of a video file or a camera, to be read once.

    Each picture of the file comes at its own time, whatever the rate; a damaged one without image. Where the file is
    cut short the pictures end. `notes` then say what is missing.

    Args:
        source: a file; or camera:0, camera:1, ... (on Windows camera:NAME).

    Raises:
        InputError: it cannot be opened, or has no pictures.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        import av

        self.name = str(source)
        try:
            if self.name.startswith(CAMERA):
                kind, device = DEVICES.get(sys.platform, DEVICES["linux"])
                self._container = av.open(device.format(self.name.removeprefix(CAMERA)), format=kind)
            else:
                self._container = av.open(f"file:{self.name}", options=SAFE)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{self.name}: {_reason(error, self.name)}") from error
        if not self._container.streams.video:
            raise InputError(f"{self.name}: there is no picture in it, only sound")
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.count = self._stream.frames or None  # as the file says
        self.notes: list[str] = []

    @property
    def rate(self) -> Fraction:
        """Pictures a second, on average."""
        return self._stream.average_rate or Fraction(25)

    def __iter__(self) -> Iterator[Frame]:
        number, damaged = 0, 0
        for time, picture in self._pictures():
            image = None if picture is None else _upright(picture)
            damaged += image is None
            yield Frame(number, time, image)
            number += 1
        if damaged:
            self.notes.append(f"{damaged} of {number} pictures are damaged")
        if self.count is not None and number < self.count:
            self.notes.append(f"the file is cut short, it has {number} of {self.count} pictures")

    def _pictures(self) -> Iterator[tuple[float, Any]]:
        """Times and pictures as they are shown. A packet whose time never comes out of the decoder is damaged."""
        waiting: list[int] = []
        for packet in self._packets():
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and packet.size and not packet.is_discard:
                heapq.heappush(waiting, time)
            for picture in _decoded(packet):
                while waiting and picture.pts is not None and waiting[0] < picture.pts:
                    yield self._seconds(heapq.heappop(waiting)), None
                shown = heapq.heappop(waiting) if waiting else picture.pts
                yield self._seconds(shown if picture.pts is None else picture.pts), picture
        for time in sorted(waiting):
            yield self._seconds(time), None

    def _packets(self) -> Iterator[Any]:
        import av

        with suppress(av.FFmpegError):  # the file is cut short here, or the camera is gone
            yield from self._container.demux(self._stream)

    def _seconds(self, time: int) -> float:
        start = Fraction(self._container.start_time or 0, 1_000_000)
        return float(time * self._stream.time_base - start)

    def close(self) -> None:
        """Lets the file or the camera go."""
        self._container.close()


def _decoded(packet: Any) -> list[Any]:
    import av

    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _upright(picture: Any) -> Picture:
    """The picture in RGB, turned as the file says."""
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), picture.rotation // 90))


def _reason(error: Exception, name: str) -> str:
    if name.startswith(CAMERA):
        return f"no such camera ({getattr(error, 'strerror', None) or error}); {CAMERA}0 is the first"
    return "not a video that can be read; it is damaged, cut short before its index, or of another kind"


class VideoWriter:
    """Writes an H.264 video that browsers play, with the sound of the file it is made of.

    Args:
        path: of an MP4 file.
        size: width and height of the pictures; odd ones lose a pixel.
        rate: pictures a second, about.
        sound: file whose sound is kept, if it has any.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction, sound: Path | None = None) -> None:
        import av

        self.path = path
        try:
            self._container = av.open(str(path), "w", format="mp4", container_options={"movflags": "faststart"})
        except av.FFmpegError as error:
            raise DataError(f"cannot write {path} ({error.strerror}); choose a folder that you may write to") from error
        self._stream = self._container.add_stream("libx264", rate=rate.limit_denominator(1001), options=QUALITY)
        self._stream.width, self._stream.height = (max(2, side - side % 2) for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._sound = self._sound_of(sound) if sound is not None else iter(())
        self._next_sound = next(self._sound, None)
        self._last = -1

    def write(self, image: Picture, time: float) -> None:
        """Adds a picture, and the sound before it. time: in seconds, later than that of the picture before."""
        import av

        self._write_sound(until=time)
        frame = av.VideoFrame.from_ndarray(image).reformat(self._stream.width, self._stream.height, "yuv420p")
        self._last = max(round(time * TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._write(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file."""
        self._write(self._stream.encode())
        self._write_sound(until=math.inf)
        self._container.close()

    def _write(self, packets: Sequence[Any]) -> None:
        import av

        try:
            self._container.mux(packets)
        except av.FFmpegError as error:
            raise DataError(f"cannot write {self.path} ({error.strerror}); make room there") from error

    def _write_sound(self, until: float) -> None:
        while self._next_sound is not None and self._next_sound[0] <= until:
            self._write(self._next_sound[1])
            self._next_sound = next(self._sound, None)

    def _sound_of(self, path: Path) -> Iterator[tuple[float, list[Any]]]:
        """Pieces of sound with their times, copied where browsers play them. The first call adds the stream."""
        import av

        with av.open(f"file:{path}", options=SAFE) as source, suppress(av.FFmpegError):  # a file that is cut short
            if not source.streams.audio:
                return
            heard: Any = source.streams.audio[0]
            start = Fraction(source.start_time or 0, 1_000_000)
            if heard.codec_context.codec.canonical_name in FOR_BROWSERS:
                stream = self._container.add_stream_from_template(heard)
                for packet in source.demux(heard):
                    if packet.dts is not None:
                        packet.pts, packet.dts = (at - int(start / heard.time_base) for at in (packet.pts, packet.dts))
                        packet.stream = stream
                        yield float(packet.dts * heard.time_base), [packet]
            else:
                layout = "mono" if heard.channels == 1 else "stereo"
                stream = self._container.add_stream("aac", rate=heard.rate, layout=layout, format="fltp")
                for packet in source.demux(heard):
                    for samples in _decoded(packet):
                        samples.pts -= int(start / samples.time_base)
                        yield float(samples.pts * samples.time_base), stream.encode(samples)
                yield math.inf, stream.encode()
