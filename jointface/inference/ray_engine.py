"""Reads shards of photos on a Ray cluster: one reader an actor, each shard by whichever is free."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from jointface.errors import ConfigError, DataError
from jointface.inference.reader import FaceReader
from jointface.inference.shards import Shard, ShardResults

NO_CLUSTER = "ray.address={}: no cluster answers there; start one with: ray start --head"
NOT_STARTED = "Ray does not start, as on a machine that has too much to do; try again, or set engine=local"
PATIENCE = 10.0  # seconds; Ray itself waits for minutes


class ShardReader:
    """An actor with a reader, which Ray makes again on another process if it dies.

    Args:
        settings: of `FaceReader.load`.
    """

    def __init__(self, settings: dict[str, Any], results: ShardResults) -> None:
        self.reader, self.results = FaceReader.load(**settings), results

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.results.read(self.reader, row["shard"])
        return {"number": row["shard"].number}


def require_ray() -> None:
    """Raises a ConfigError where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("engine=ray needs Ray: pip install 'jointface[ray]', or set engine=local")


def read_shards(
    shards: Sequence[Shard], results: ShardResults, settings: dict[str, Any], address: str | None, workers: int | None
) -> Iterator[int]:
    """Reads shards, and yields the number of each when it is done.

    Args:
        settings: of `FaceReader.load`.
        address: of a running cluster; None starts one on this machine, which ends with the last shard.
        workers: actors; None takes one a GPU, or one a CPU core where there is none.

    Raises:
        ConfigError: there is no cluster, or none can be started. DataError: a worker cannot go on.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    _require_cluster(address)
    try:
        ray.init(
            address, include_dashboard=None if address else False, log_to_driver=False, logging_level=logging.ERROR
        )
    except Exception as error:  # also plain ones
        what = NO_CLUSTER.format(address) if address else NOT_STARTED
        raise ConfigError(f"{what} ({' '.join(str(error).split())[:150]})") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0)) if settings["device"] != "cpu" else 0
        count = min(workers or gpus or int(found.get("CPU", 1)), len(shards))
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        reader: Any = ShardReader  # an actor class, which the annotation of `map` does not know
        read = rows.map(
            reader, fn_constructor_args=(settings, results), num_gpus=min(1, gpus) or None,
            num_cpus=1, compute=ray.data.ActorPoolStrategy(size=count),
        )  # fmt: skip
        for row in read.iter_rows():
            yield row["number"]
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise DataError(f"a worker of Ray cannot go on: {' '.join(str(cause).split())[:300]}") from error
    finally:
        ray.shutdown()


def _require_cluster(address: str | None) -> None:
    """Raises a ConfigError where HOST:PORT does not answer."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ConfigError(NO_CLUSTER.format(address)) from error
