"""Jobs in a sweep: their names, and in distributed runs their processes.

Lightning starts the other processes of a distributed run by repeating the command line, but in a sweep this would
repeat the whole sweep. Lightning also leaves environment variables and a process group that the next job would reuse.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write


@contextmanager
def one_job() -> Iterator[None]:
    """Inside the block, the command line describes only this job; after it, its processes have left no trace."""
    argv, environment = sys.argv, dict(os.environ)
    if HydraConfig.initialized() and (hydra := HydraConfig.get()).mode == RunMode.MULTIRUN:
        with read_write(cast(DictConfig, hydra.run)):
            hydra.run.dir = hydra.runtime.output_dir  # Lightning passes it to the processes that it starts
        sources = [source for source in hydra.runtime.config_sources if source.provider == "command-line"]
        folders = [f"--config-dir={source.path}" for source in sources]
        sys.argv = [argv[0], *folders, *hydra.overrides.task, "hydra.mode=RUN"]
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)


def name_job(name: str, group: str | None) -> tuple[str, str | None]:
    """The name and group of a run. In a sweep, a job is named by the overrides in which jobs may differ, and the group
    by the sweep's folder."""
    if not HydraConfig.initialized() or (hydra := HydraConfig.get()).mode != RunMode.MULTIRUN:
        return name, group
    record = Path(hydra.sweep.dir) / "multirun.yaml"
    sweep = OmegaConf.load(record).hydra if record.is_file() else hydra  # not every sweeper leaves a record
    params = [f"{key}={value}" for key, value in (sweep.sweeper.get("params") or {}).items()]
    given = OverridesParser.create().parse_overrides([*params, *sweep.overrides.task])
    shared = {override.get_key_element() for override in given if not override.is_sweep_override()}
    ignored = {"callbacks.trial.number", "checkpoint"} | shared
    own = [override for override in hydra.overrides.task if override.partition("=")[0] not in ignored]
    return ",".join(own) or name, group or Path(hydra.sweep.dir).name
