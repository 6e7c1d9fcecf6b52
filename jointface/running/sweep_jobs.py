"""Distributed jobs in a sweep: each job starts its own processes.

Lightning starts the other processes of a distributed run by repeating the command line, but in a sweep this would
repeat the whole sweep. Lightning also leaves environment variables and a process group that the next job would reuse.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, read_write


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
