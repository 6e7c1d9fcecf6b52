"""Photos a second of `jointface.predict` in one process and on Ray: `python -m bench.many_photos CHECKPOINT [COUNT]`.

COUNT photos of a drawn face of 480 pixels are read for tables alone, each way in turn: by one process with one thread
and with two, and by one and two actors of Ray. Rates leave start-up out: they are between the times at which the first
and the last shard were written. It also prints how long the first one took, and the memory of the largest actor after a
third of the shards and after all of them.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir

from bench.predict import open_photo_bytes, set_threads
from jointface.command_line import CONF_DIR
from jointface.inference.input_files import find_files
from jointface.inference.ray_engine import read_shards
from jointface.inference.reader import FaceReader
from jointface.inference.shards import Shard, ShardResults, make_shards

SHARD = 8  # photos


def one_process(shards: list[Shard], results: ShardResults, settings: dict, threads: int) -> Iterator[int]:
    """Reads in this process, and yields the number of each shard."""
    set_threads(threads)
    reader = FaceReader.load(**settings)
    for shard in shards:
        results.read(reader, shard)
        yield shard.number


def actor_mib() -> float:
    """Memory of the largest actor on this machine."""
    sizes = [0.0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_text().startswith("ray::MapWorker"):
                resident = next(line for line in (process / "status").read_text().splitlines() if "VmRSS" in line)
                sizes.append(int(resident.split()[1]) / 1024)
        except (OSError, StopIteration):
            continue  # it has ended
    return max(sizes)


def measure(name: str, done: Iterator[int], results: ShardResults) -> None:
    """Prints start-up, rate and memory of one way."""
    start = time.time()
    sizes = [actor_mib() for _ in done]
    first, *_, last = sorted(path.stat().st_mtime for path in (results.folder / "shards").glob("*.json"))
    rate = SHARD * (len(sizes) - 1) / (last - first)
    memory = f", an actor has {sizes[len(sizes) // 3]:.0f}, then {sizes[-1]:.0f} MiB" if max(sizes) else ""
    print(f"{name:24s} {rate:6.1f} photos/s, first shard after {first - start:5.1f} s{memory}", flush=True)


def main(checkpoint: str, count: int) -> None:
    """Prints all rates."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("predict")
    keys = ("finder", "two_passes", "batch_size", "max_faces", "min_score", "backend")
    settings = {key: config[key] for key in keys} | {"checkpoint": str(Path(checkpoint).absolute()), "device": "cpu"}
    with tempfile.TemporaryDirectory() as scratch:
        content = open_photo_bytes(None)
        for number in range(count):
            (Path(scratch) / f"{number:06}.jpg").write_bytes(content)
        shards = make_shards(find_files([scratch]), SHARD)
        for threads in (1, 2):
            results = ShardResults(Path(scratch) / f"process{threads}", {})
            measure(f"one process, {threads} thread(s)", one_process(shards, results, settings, threads), results)
        for workers in (1, 2):
            results = ShardResults(Path(scratch) / f"ray{workers}", {})
            measure(f"Ray, {workers} actor(s)", read_shards(shards, results, settings, None, workers), results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 480)
