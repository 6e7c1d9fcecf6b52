"""Videos in, tracked faces out: whatever the file, the overlay has its pictures, times and sound."""

import contextlib
import json
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from scipy.spatial.transform import Rotation

from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError, InputError
from jointface.geometry import FaceBox
from jointface.inference import Face, Photo, Pose
from jointface.inference import video_files as files
from jointface.inference.input_files import InputFile
from jointface.inference.moving_mesh import MovingMesh
from jointface.inference.output_folder import Outputs, Results
from jointface.inference.tracking import FaceTracker, TrackedFace
from jointface.inference.video_files import Video, is_video, require_video
from jointface.inference.video_results import VideoOutputs
from jointface.predict import predict, read_video
from tests.browser import Browser, wait_until
from tests.painted import painted, square_reader

Faults = dict[str, Any]
RATE = 25


def film(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    sound: str | None = None,
) -> Path:
    """A video file of these pictures; the sound is a tone of the same length."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"crf": "1"} if codec == "libx264" else {})
        stream.bit_rate = 4_000_000
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj444p" if codec == "mjpeg" else "yuv444p" if codec == "libx264" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, RATE)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        tone = container.add_stream(sound, rate=16_000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = round(1000 * times[number]) if times else number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
            if tone is not None:
                wave = (9000 * np.sin(0.2 * np.arange(640))).astype(np.int16)[None]
                samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                samples.sample_rate, samples.pts = 16_000, 640 * number
                container.mux(tone.encode(samples))
        container.mux(stream.encode())
        if tone is not None:
            container.mux(tone.encode())
    return path


def walk(count: int = 12, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Somebody who walks to the right."""
    return [painted([(30 + number, 30, 30)], width, height) for number in range(count)]


def read(path: Path, folder: Path, more: VideoOutputs | None = None, **outputs: Any) -> Results:
    """Reads a video into a folder."""
    results = Results(folder, Outputs(overlay_side=96, **outputs), {})
    tracker = FaceTracker(square_reader(two_passes=False), look_every=5)
    read_video(tracker, InputFile(path, path.stem), results, more or VideoOutputs())
    return results


# --- in


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mjpeg"), ("a.webm", "libvpx"), ("a.ts", "mpeg2video")]
)
def test_every_picture_comes_at_its_time(name: str, codec: str, tmp_path: Path) -> None:
    pictures = walk()
    video = Video(film(tmp_path / name, pictures, codec))
    frames = list(video)
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / RATE, abs=2e-3)
    assert [frame.number for frame in frames] == [*range(len(pictures))]
    assert max(np.abs(f.image.astype(int) - p).mean() for f, p in zip(frames, pictures, strict=True)) < 12
    assert video.notes == []


def test_the_rate_may_vary(tmp_path: Path) -> None:
    times = [0, 0.04, 0.045, 0.2, 0.5, 0.501]
    frames = list(Video(film(tmp_path / "a.mp4", walk(len(times)), times=times)))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_pictures_are_upright(rotation: int, turns: int, tmp_path: Path) -> None:
    picture = painted([(20, 12, 20), (70, 50, 20)], 97, 65)
    (frame,) = Video(film(tmp_path / "a.mov", [picture], rotation=rotation))
    assert frame.image is not None
    np.testing.assert_allclose(frame.image, np.rot90(picture, turns), atol=6)


def damaged(path: Path, number: int) -> Path:
    """The file, with zeros in place of a picture that no other depends on."""
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][number]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    return path


def test_a_broken_picture_is_one_without_image(tmp_path: Path) -> None:
    video = Video(damaged(film(tmp_path / "a.mov", walk(), "mjpeg"), 4))
    frames = list(video)
    assert [frame.image is None for frame in frames] == [number == 4 for number in range(12)]
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / RATE)
    assert video.notes == ["1 of 12 pictures are damaged"]


def test_a_file_that_is_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", walk(40), "mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = Video(path)
    count = sum(frame.image is not None for frame in video)
    assert 10 < count < 30
    assert "cut short" in video.notes[-1]


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nhttp://a/b.ts\n", b"\0\0\0\x18ftypmp42" + bytes(40)])
def test_what_is_no_video_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a.mp4: not a video that can be read") as caught:
        Video(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)


def test_videos_and_cameras_are_told_from_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_video(name) for name in ("a.MP4", "camera:1", "a.jpg", "a.gif")] == [True, True, False, False]
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a.mp4 is a video, which needs PyAV: pip install 'jointface\[video\]'"):
        require_video("a.mp4")
    with pytest.raises(InputError, match="camera:77: no such camera"):
        Video("camera:77")


# --- out


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {"sound": "aac"}),
        ("varies.mp4", {"times": [*np.cumsum([0.01, 0.2, 0.04] * 4).tolist()], "sound": "mp3"}),
        ("odd.mkv", {"width": 97, "height": 65, "sound": "pcm_s16le"}),
        ("turned.mov", {"rotation": 90}),
        ("broken.mov", {"codec": "mjpeg", "damage": 0}),
    ],
)
def test_the_overlay_has_the_pictures_times_and_sound_of_the_video(name: str, options: Faults, tmp_path: Path) -> None:
    size = {key: options.pop(key) for key in ("width", "height") if key in options}
    damage = options.pop("damage", None)
    path = film(tmp_path / name, walk(**size), **options)
    if damage is not None:
        damaged(path, damage)
    read(path, tmp_path / "out")
    frames, shown = list(Video(path)), list(Video(tmp_path / "out" / "videos" / f"{path.stem}.mp4"))
    assert [frame.time for frame in shown] == pytest.approx([frame.time for frame in frames], abs=1e-3)
    with av.open(str(tmp_path / "out" / "videos" / f"{path.stem}.mp4")) as overlay, av.open(str(path)) as given:
        stream = overlay.streams.video[0]
        assert (stream.codec_context.name, stream.format.name) == ("h264", "yuv420p")
        assert [len(one.streams.audio) for one in (overlay, given)] == [int("sound" in options)] * 2
        if "sound" in options:
            lengths = [sum(part.samples for part in one.decode(audio=0)) / 16_000 for one in (overlay, given)]
            assert lengths[0] == pytest.approx(lengths[1], abs=0.1)


def test_the_overlay_plays_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    """Wherever one seeks, the person is where the film has them at that time."""
    read(film(tmp_path / "a.mp4", walk(50), sound="aac"), tmp_path / "out")
    browser.open(f"file://{tmp_path}/out/videos/a.mp4")
    browser.script("video = document.querySelector('video'); video.controls = false; video.pause()")
    wait_until(lambda: browser.script("return video.readyState") == 4)
    assert browser.script("return video.duration") == pytest.approx(50 / RATE, abs=0.1)
    places = []
    for number in (40, 5):
        browser.script("video.currentTime = arguments[0]", (number + 0.5) / RATE)
        wait_until(lambda: not browser.script("return video.seeking"))
        picture = browser.picture("video").astype(int)
        assert picture.shape == (64, 96, 3)
        places.append(np.nonzero(picture[..., 0] - picture[..., 1:].max(2) > 80)[1].mean())  # of what is red
    assert places == pytest.approx([70, 35], abs=4)


def test_the_table_has_a_row_a_person_and_picture(tmp_path: Path) -> None:
    """Nobody is there for a while: these pictures have no row, and the overlay shows them plain."""
    pictures = [painted([(30, 30, 30) if not 10 <= n < 20 else None, (70, 32, 24)], 96, 64) for n in range(30)]
    results = read(film(tmp_path / "a.mp4", pictures), tmp_path / "out", VideoOutputs(parquet=True))
    table = pd.read_csv(tmp_path / "out" / "videos" / "a.csv")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "videos" / "a.parquet"), table)
    assert [*table.columns[:6]] == ["video", "frame", "time_s", "width_px", "height_px", "person"]
    left = table[table["box_x_px"] < 50]
    assert left["frame"].tolist() == [*range(10), *range(20, 30)]
    assert left["person"].nunique() == 1
    assert left["time_s"].tolist() == pytest.approx((left["frame"] / RATE).tolist())
    assert table[table["box_x_px"] > 50]["frame"].tolist() == [*range(30)]
    assert results.finish([InputFile(tmp_path / "a.mp4", "a")]) == (2, 0)
    assert not (tmp_path / "out" / "faces.csv").exists()


def test_a_video_without_a_face_is_skipped_and_leaves_nothing(tmp_path: Path) -> None:
    file = InputFile(film(tmp_path / "a.mp4", [painted([], 96, 64)] * 3), "a")
    results = read(file.path, tmp_path / "out")
    assert results.finish([file]) == (0, 1)
    assert "no face was found" in (tmp_path / "out" / "skipped.csv").read_text()
    assert not (tmp_path / "out" / "videos").exists()
    assert results.is_done(file)


@pytest.mark.parametrize("camera", [False, True])
def test_what_is_interrupted_leaves_nothing_behind_but_ends_a_recording(
    camera: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(FaceTracker):
        def __call__(self, image: np.ndarray, time: float) -> list[TrackedFace]:
            if time > 0.3:
                raise KeyboardInterrupt
            return super().__call__(image, time)

    path, folder = film(tmp_path / "a.mp4", walk()), tmp_path / "out"
    monkeypatch.setattr(files, "DEVICES", {"linux": (None, f"{tmp_path}/{{}}.mp4")})
    file, results = InputFile(Path("camera:a") if camera else path, "a"), Results(folder, Outputs(overlay_side=96), {})
    with contextlib.nullcontext() if camera else pytest.raises(KeyboardInterrupt):
        read_video(Stopped(square_reader()), file, results, VideoOutputs())
    assert {one.name for one in folder.rglob("*.*")} == ({"a.mp4", "a.csv", "a.json"} if camera else set())
    if camera:
        assert len(list(Video(folder / "videos" / "a.mp4"))) == len(pd.read_csv(folder / "videos" / "a.csv")) == 8


def test_the_command_reads_videos_and_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera is a file here."""
    path = film(tmp_path / "a.mp4", walk())
    monkeypatch.setattr(files, "DEVICES", {"linux": (None, f"{tmp_path}/{{}}.mp4")})
    monkeypatch.setattr("jointface.predict.FaceReader.load", lambda *_, **__: square_reader())
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = [f"input=[{path},camera:a]", f"output_dir={tmp_path}/out", "checkpoint=any", "moving_mesh=true"]
        config = compose("predict", overrides=given)
    assert predict(config) == 2
    (recording,) = (tmp_path / "out" / "videos").glob("camera_a_*.csv")
    tables = [pd.read_csv(one).drop(columns="video") for one in (recording, tmp_path / "out" / "videos" / "a.csv")]
    pd.testing.assert_frame_equal(*tables)
    assert (tmp_path / "out" / "videos" / "a_1.glb").exists()
    config.input = str(path)
    monkeypatch.setattr("jointface.predict.FaceReader.load", None)  # what is done is not read again
    assert predict(config) == 1


# --- the moving mesh


def test_the_moving_mesh_lies_where_the_faces_do() -> None:
    """What a viewer computes from targets, weights and motion are the vertices of each picture."""
    rng = np.random.default_rng(0)
    shape, change = rng.normal(size=(30, 3)), 0.2 * rng.normal(size=(3, 30, 3))
    photo, triangles = Photo(np.full((50, 60, 3), 90, np.uint8)), np.arange(30).reshape(10, 3)
    box, landmarks = FaceBox(30, 20, 10), np.zeros((68, 3), np.float32)
    mesh, faces = MovingMesh(), []
    for number in range(12):
        turn = Rotation.from_euler("xyz", [0.1 * number, 0.3 * number, -0.2 * number]).as_matrix()
        head = shape + np.tensordot(rng.normal(size=3), change, 1)
        vertices = (9 + number) * (head @ turn.T) * [1, -1, 1] + [30 + number, 20, 0]
        pose = Pose.from_matrix(turn.astype(np.float32))
        faces.append(Face(photo, box, 1.0, vertices.astype(np.float32), triangles, None, landmarks, pose))
        mesh.add(faces[-1], 0.1 * number)
    data = mesh.glb(scale=0.5)
    length = struct.unpack("<I", data[12:16])[0]
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]

    def values(number: int) -> np.ndarray:
        accessor = tree["accessors"][number]
        start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        return np.frombuffer(binary, np.float32, accessor["count"] * width, start).reshape(-1, width)

    (animation,), (primitive,) = tree["animations"], tree["meshes"][0]["primitives"]
    motion = {
        channel["target"]["path"]: values(animation["samplers"][channel["sampler"]]["output"])
        for channel in animation["channels"]
    }
    mean = values(primitive["attributes"]["POSITION"])
    targets = np.stack([values(target["POSITION"]) for target in primitive["targets"]])
    weights = motion["weights"].reshape(12, -1)
    for number, face in enumerate(faces):
        local = (mean + np.tensordot(weights[number], targets, 1)) * motion["scale"][number]
        placed = Rotation.from_quat(motion["rotation"][number]).apply(local) + motion["translation"][number]
        np.testing.assert_allclose(placed, 0.5 * face.vertices * [1, -1, 1], atol=0.02)
    assert values(animation["samplers"][0]["input"]).ravel() == pytest.approx(0.1 * np.arange(12))
    assert (np.sum(motion["rotation"][1:] * motion["rotation"][:-1], axis=1) > 0).all()
