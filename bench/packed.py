"""Packed copies: the file format, and the loader against plain decoding of the same bytes.

`python -m bench.packed DATA`: pictures are cut from the original photos in DATA/AFLW2000 and DATA/300W_LP/IBUG, which
are 450 x 450, and repeated under other keys. Everything is measured in turn in one run; the speeds are medians.
"""

import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import pyarrow as pa
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from bench.timing import medians, seconds
from jointface.command_line import CONF_DIR
from jointface.datamodules import Augmentation, CropTransform, PackedFaces
from jointface.datamodules.crop import warp
from jointface.datamodules.crop_store import FORMAT, PackedWriter
from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.loading import Batches, identity_collate
from jointface.datamodules.sample_check import CheckedSample, Packing, encode
from jointface.geometry import FaceBox, crop_transform

PICTURES, READS, REPEATS, BATCH = 4000, 1500, 5, 64
LABELS = {
    "shape_coefficients": np.zeros(40, np.float32),
    "expression_coefficients": np.zeros(10, np.float32),
    "camera": np.eye(3, 4, dtype=np.float32),
}


def pictures(data: Path, packing: Packing) -> list[np.ndarray]:
    """RGB pictures as `prepare` packs them, of the original photos."""
    photos = [*sorted((data / "AFLW2000").glob("*.jpg")), *sorted((data / "300W_LP" / "IBUG").glob("*.jpg"))]
    cut = []
    for photo in photos:
        transform = crop_transform(FaceBox(225, 225, 140), packing.image_size)
        transform[:, 2] += packing.border
        cut.append(np.empty((packing.picture_size, packing.picture_size, 3), np.uint8))
        warp(read_image(photo), transform.numpy(), cut[-1])
    return cut


def reads_per_second(read: Callable[[int], Any]) -> Callable[[], float]:
    def task() -> float:
        indices = torch.randperm(PICTURES)[:READS].tolist()
        return READS / seconds(lambda: [bytes(read(index)) for index in indices])()

    return task


def formats(folder: Path, encoded: list[bytes]) -> None:
    """Random reads from each format; all pages are in memory, so it is the format's own work."""
    records = [encoded[index % len(encoded)] for index in range(PICTURES)]
    environment = lmdb.open(str(folder / "lmdb"), map_size=1 << 34)
    with environment.begin(write=True) as writing:
        for index, record in enumerate(records):
            writing.put(index.to_bytes(8, "big"), record)
    transaction = environment.begin(buffers=True)
    with pa.OSFile(str(folder / "arrow"), "wb") as sink:
        schema = pa.schema([("picture", pa.large_binary())])
        with pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, PICTURES, 500):
                writer.write(pa.record_batch([pa.array(records[start : start + 500], pa.large_binary())], schema))
    column = pa.ipc.open_file(pa.memory_map(str(folder / "arrow"))).read_all()["picture"]
    hdf5 = h5py.File(folder / "hdf5", "w")
    dataset = hdf5.create_dataset("picture", PICTURES, h5py.vlen_dtype(np.uint8))
    for index, record in enumerate(records):
        dataset[index] = np.frombuffer(record, np.uint8)
        (folder / f"{index}.jpg").write_bytes(record)
    speeds = medians({
        "one file each": reads_per_second(lambda index: (folder / f"{index}.jpg").read_bytes()),
        "LMDB": reads_per_second(lambda index: transaction.get(index.to_bytes(8, "big"))),
        "Arrow": reads_per_second(lambda index: column[index].as_buffer()),
        "HDF5": reads_per_second(lambda index: dataset[index]),
    }, REPEATS)  # fmt: skip
    print(f"random reads of {len(records[0]):,} bytes")
    for name, speed in speeds.items():
        print(f"  {name:14s} {speed:10,.0f} pictures/s  {speed / speeds['one file each']:.2f} of one file each")


def codecs(cut: list[np.ndarray], quality: int) -> None:
    """Bytes, fidelity and decoding speed of what a picture could be stored as."""
    halved = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    stored = {
        "JPEG 4:4:4": [encode(picture, quality) for picture in cut],
        "JPEG 4:2:0": [_encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *halved]) for picture in cut],
        "WebP lossless": [_encode(picture, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]) for picture in cut],
        "PNG": [_encode(picture, ".png", []) for picture in cut],
    }
    speeds = medians({name: _decoding(encoded) for name, encoded in stored.items()}, REPEATS)
    for name, encoded in stored.items():
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in encoded]
        psnr = statistics.mean(min(cv2.PSNR(a, b), 99.0) for a, b in zip(cut, decoded, strict=True))
        size = statistics.mean(map(len, encoded))
        print(f"  {name:14s} {size:8,.0f} bytes  PSNR {psnr:4.1f} dB  {speeds[name]:8,.0f} decoded/s")


def _encode(picture: np.ndarray, ending: str, options: list[int]) -> bytes:
    return cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _decoding(encoded: list[bytes]) -> Callable[[], float]:
    arrays = [np.frombuffer(encoded[index % len(encoded)], np.uint8).copy() for index in range(READS)]
    return lambda: READS / seconds(lambda: [cv2.imdecode(array, cv2.IMREAD_COLOR) for array in arrays])()


def loader(folder: Path, packing: Packing, encoded: list[bytes], augmentation: Augmentation) -> None:
    """The loader with one worker against decoding alone."""
    meta = {"format": FORMAT, "image_size": packing.image_size, "picture_size": packing.picture_size, "settings": {}}
    meta |= {"label_set": None, "has_shape": True, "morphable_model": None, "root": "."}
    with PackedWriter(folder / "train.lmdb", meta) as writer:
        writer.write(CheckedSample(index, LABELS, encoded[index % len(encoded)]) for index in range(PICTURES))
        writer.finish(np.array([f"{index}.jpg" for index in range(PICTURES)]))
    only_geometry = Augmentation(augmentation.rotation, augmentation.scale, augmentation.shift, augmentation.flip)
    variants = {"plain crops": None, "geometry": only_geometry, "geometry and colours": augmentation}
    sets = {
        name: PackedFaces(folder, "train", CropTransform(packing.image_size, varied))
        for name, varied in variants.items()
    }
    tasks = {"decoding alone": _decoding(encoded), **{name: _loading(data) for name, data in sets.items()}}
    speeds = medians(tasks, REPEATS)
    print(f"loader at {packing.image_size} pixels, one worker")
    for name, speed in speeds.items():
        print(f"  {name:22s} {speed:8,.0f} images/s  {speed / speeds['decoding alone']:.2f} of decoding")
    profile(sets["geometry and colours"])


def _loading(dataset: PackedFaces) -> Callable[[], float]:
    def task() -> float:
        batches = iter(
            DataLoader(Batches(dataset), batch_size=BATCH, shuffle=True, num_workers=1, collate_fn=identity_collate)
        )
        next(batches)  # starting the worker is not the loader's speed
        start, images = time.perf_counter(), 0
        for batch in batches:
            images += len(batch["image"])
        return images / (time.perf_counter() - start)

    return task


def profile(dataset: PackedFaces) -> None:
    """Where a worker's time goes, by what is called."""
    profiler = cProfile.Profile()
    profiler.enable()
    for start in range(0, READS, BATCH):
        dataset.batch(list(range(start, min(start + BATCH, READS))))
    profiler.disable()
    parts = {
        "read and checksum": "picture", "decode": "decode_image", "warp": "warp", "colours": "change_colours",
        "labels": "move_labels",
    }  # fmt: skip
    entries: Any = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in entries.values())
    print("  share of the worker's time: ", end="")
    shares = {}
    for what, function in parts.items():
        shares[what] = (
            sum(entry[3] for key, entry in entries.items() if key[2] == function and "jointface" in key[0]) / total
        )
    shares["rest"] = 1 - sum(shares.values())
    print(", ".join(f"{what} {share:.0%}" for what, share in shares.items()))


def main(data: str) -> None:
    """Prints formats, codecs and the loader, at 256 and 112 pixels."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    augmentation = instantiate(OmegaConf.load(CONF_DIR / "data" / "augmentation" / "default.yaml"), _convert_="all")
    quality = OmegaConf.load(CONF_DIR / "prepare.yaml").quality
    for size in (256, 112):
        packing = Packing(size, OmegaConf.load(CONF_DIR / "prepare.yaml").margin, quality)
        cut = pictures(Path(data), packing)
        encoded = [encode(picture, quality) for picture in cut]
        with tempfile.TemporaryDirectory() as folder:
            if size == 256:
                formats(Path(folder), encoded)
            print(f"stored pictures of {packing.picture_size} pixels, quality {quality}")
            codecs(cut, quality)
            loader(Path(folder), packing, encoded, augmentation)


if __name__ == "__main__":
    main(sys.argv[1])
