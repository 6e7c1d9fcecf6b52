"""`python -m jointface.predict engine=ray`: many processes read what one would, whatever happens to them."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from jointface import FaceReader
from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.inference.face_tables import face_entry, face_table
from jointface.inference.ray_engine import ShardReader
from jointface.inference.shards import Shard, ShardResults
from jointface.modules.checkpoint import KEY, describe
from jointface.predict import predict
from tests.networks import make_module, network_config

if not find_spec("ray"):  # its import takes seconds in every process that collects
    pytest.skip("needs the extra ray", allow_module_level=True)

FILES, ROWS = 24, 8  # photos in the folder and in the table


@pytest.fixture(scope="module")
def checkpoint(tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is not trained."""
    module = make_module(tiny_model)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save({KEY: describe(module.network, network_config("morphable")), "state_dict": module.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, one of them cut short, and a table with photos inside, one of them missing."""
    folder = tmp_path_factory.mktemp("photos")
    contents = [_photo(number) for number in range(FILES + ROWS)]
    for number in range(FILES):
        (folder / f"{number:02}.jpg").write_bytes(contents[number] if number != 5 else contents[5][:5000])
    rows = [{"path": f"row {number}.jpg", "bytes": contents[FILES + number] if number != 3 else None}
            for number in range(ROWS)]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "table.parquet", row_group_size=3)
    return folder


def _photo(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize((900, 900), Image.Resampling.BICUBIC).save(content, "JPEG")
    return content.getvalue()


def ray_config(source: Path, checkpoint: Path, output_dir: Path, *overrides: str) -> DictConfig:
    given = [f"input={source}", f"checkpoint={checkpoint}", f"output_dir={output_dir}", "finder=none", "device=cpu"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("predict", overrides=[*given, "engine=ray", *overrides])


def kill_a_worker(when: Callable[[], bool], killed: list[int]) -> None:
    """Kills one actor of this process's cluster as soon as something is true."""
    while not when():
        time.sleep(0.005)
    (*_, pid) = (pid for pid, title in descendants(os.getpid()) if title.startswith("ray::MapWorker"))
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def descendants(parent: int) -> Iterator[tuple[int, str]]:
    """Number and title of each process that a process has started, or one of those."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            yield pid, Path(f"/proc/{pid}/cmdline").read_text()
            yield from descendants(pid)


def assert_everything_is_there_once(folder: Path, photos: Path, checkpoint: Path) -> None:
    skipped = pd.read_csv(folder / "skipped.csv")
    assert [Path(name).name for name in skipped["photo"]] == ["05.jpg", "row 3.jpg"]
    assert [reason.split(" (")[0] for reason in skipped["reason"]] == ["the picture is damaged", "the file is empty"]
    found = pd.read_parquet(folder / "faces")
    assert len(found) == found["photo"].nunique() == FILES + ROWS - 2
    pd.testing.assert_frame_equal(found, rows_of_one_process(photos, checkpoint), rtol=0, atol=5e-3)


def test_a_shard_that_is_read_again_loses_no_photo_and_writes_none_twice(
    photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that die between a shard's faces and its record, and are made again, all in this process."""

    def read_in_turn(
        shards: list[Shard], results: ShardResults, settings: dict[str, Any], *cluster: object
    ) -> Iterator[int]:
        for shard in shards:
            with monkeypatch.context() as patch:
                patch.setattr("jointface.inference.shards.json.dumps", Mock(side_effect=KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    ShardReader(settings, results)({"shard": shard})
            yield ShardReader(settings, results)({"shard": shard})["number"]

    monkeypatch.setattr("jointface.predict.read_shards", read_in_turn)
    config = ray_config(photos, checkpoint, tmp_path, "ray.shard_size=12")
    assert predict(config) == FILES + ROWS - 2
    assert_everything_is_there_once(tmp_path, photos, checkpoint)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert predict(config) == FILES + ROWS - 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == written


@pytest.mark.slow
def test_a_killed_worker_loses_no_photo_and_writes_none_twice(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def started() -> bool:
        return len([*(tmp_path / "shards").glob("*.json")]) > 1

    killer = threading.Thread(target=kill_a_worker, args=(started, killed), daemon=True)
    killer.start()
    assert predict(ray_config(photos, checkpoint, tmp_path, "ray.workers=2", "ray.shard_size=1")) == FILES + ROWS - 2
    assert killed
    assert_everything_is_there_once(tmp_path, photos, checkpoint)


def rows_of_one_process(photos: Path, checkpoint: Path) -> pd.DataFrame:
    """What a reader in this process says of the photos that can be read."""
    sources = {str(path): path for path in sorted(photos.glob("*.jpg")) if path.name != "05.jpg"}
    table = pd.read_parquet(photos / "table.parquet").dropna()
    readings = FaceReader.load(checkpoint, finder="none", device="cpu").read([*sources.values(), *table["bytes"]])
    entries = [
        {"photo": name, "width": 900, "height": 900} | face_entry(face, 1)
        for name, reading in zip([*sources, *table["path"]], readings, strict=True)
        for face in reading.faces
    ]
    return face_table(entries)


def test_a_table_without_photos_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    pd.DataFrame({"image": [1]}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table.parquet: no column 'bytes' with the files of photos"):
        predict(ray_config(tmp_path, checkpoint, tmp_path / "out"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=spark"], "engine=spark: choose from local, ray"),
        (["ray.shard_size=0"], "ray.shard_size=0: expected a whole number of at least 1"),
        (["ray.address=localhost:1"], "ray.address=localhost:1: no cluster answers there"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    overrides: list[str], message: str, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(ray_config(photos / "00.jpg", checkpoint, tmp_path, *overrides))


def test_a_cluster_that_does_not_start_is_one_line(
    photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", Mock(side_effect=Exception("The node timed out\nduring startup.")))
    with pytest.raises(ConfigError, match=r"Ray does not start.* \(The node timed out during startup.\)"):
        predict(ray_config(photos, checkpoint, tmp_path))


def test_missing_ray_is_named(photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine=ray needs Ray: pip install 'jointface\[ray\]'"):
        predict(ray_config(photos, checkpoint, tmp_path))
