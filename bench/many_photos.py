"""Photos a second of `jointface.predict` in one process and on Ray, and how memory grows.

`python -m bench.many_photos CHECKPOINT [COUNT] [FOLDER]`

COUNT photos of a drawn face of 480 pixels are read for tables alone, each way in turn: by one process with one thread
and with two, and by one and two actors of Ray. Rates leave start-up out: they are between the times at which the first
and the last shard were written. Beside them stand the processor time of a photo, all processes together, which other
programs on the machine change less; and the memory of the process or of the largest actor after a tenth of the shards
and after all of them. With FOLDER the photos are links to those in it, read by one thread and by one actor.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

from hydra import compose, initialize_config_dir

from bench.predict import open_photo_bytes, set_threads
from jointface.command_line import CONF_DIR
from jointface.inference.input_files import find_files
from jointface.inference.ray_engine import read_shards
from jointface.inference.reader import FaceReader
from jointface.inference.shards import Shard, ShardResults, make_shards
from jointface.modules.checkpoint import model_path

SHARD = 8  # photos


def one_process(shards: list[Shard], results: ShardResults, settings: dict, threads: int) -> Iterator[int]:
    """Reads in this process, and yields the number of each shard."""
    set_threads(threads)
    reader = FaceReader.load(**settings)
    for shard in shards:
        results.read(reader, shard)
        yield shard.number


def processes(parent: int) -> Iterator[Path]:
    """Folders in /proc of a process and all that it has started."""
    yield Path(f"/proc/{parent}")
    with suppress(OSError):  # it has ended
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from processes(int(child))


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has started."""
    ticks = 0
    for process in processes(os.getpid()):
        with suppress(OSError):
            ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def reader_mib() -> float:
    """Memory of the largest actor, or of this process if there is none."""
    sizes = {True: [0.0], False: [0.0]}
    for process in processes(os.getpid()):
        with suppress(OSError, StopIteration):
            resident = next(line for line in (process / "status").read_text().splitlines() if "VmRSS" in line)
            is_actor = (process / "cmdline").read_text().startswith("ray::MapWorker")
            sizes[is_actor].append(int(resident.split()[1]) / 1024)
    return max(sizes[True]) or sizes[False][1]


def measure(name: str, done: Iterator[int], results: ShardResults) -> None:
    """Prints start-up, rate, processor time and memory of one way."""
    start = time.time()
    seen = [(cpu_seconds(), reader_mib()) for _ in done]
    first, *_, last = sorted(path.stat().st_mtime for path in (results.folder / "shards").glob("*.json"))
    photos = SHARD * (len(seen) - 1)
    work = 1000 * (seen[-1][0] - seen[0][0]) / photos
    memory = f"{seen[len(seen) // 10][1]:.0f}, then {seen[-1][1]:.0f} MiB"
    rate = photos / (last - first)
    print(f"{name:24s} {rate:6.1f} photos/s {work:6.1f} ms of processor time each, {memory}, "
          f"first shard after {first - start:.0f} s", flush=True)  # fmt: skip


def main(checkpoint: str, count: int, photos: Path | None) -> None:
    """Prints all figures."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("predict")
    keys = ("finder", "two_passes", "batch_size", "max_faces", "min_score", "backend")
    network = str(model_path(checkpoint).absolute())
    settings = {key: config[key] for key in keys} | {"checkpoint": network, "device": "cpu"}
    with tempfile.TemporaryDirectory() as scratch:
        counts = (1, 2) if photos is None else (1,)
        if photos is None:
            photos = Path(scratch) / "drawn"
            photos.mkdir()
            (photos / "face.jpg").write_bytes(open_photo_bytes(None))
        folder = Path(scratch) / "photos"
        folder.mkdir()
        for number, photo in enumerate(islice(cycle(sorted(photos.glob("*.jpg"))), count)):
            (folder / f"{number:06}.jpg").symlink_to(photo.absolute())
        shards = make_shards(find_files([str(folder)]), SHARD)
        for threads in counts:
            results = ShardResults(Path(scratch) / f"process{threads}", {})
            measure(f"one process, {threads} thread(s)", one_process(shards, results, settings, threads), results)
        for workers in counts:
            results = ShardResults(Path(scratch) / f"ray{workers}", {})
            measure(f"Ray, {workers} actor(s)", read_shards(shards, results, settings, None, workers), results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 480, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
