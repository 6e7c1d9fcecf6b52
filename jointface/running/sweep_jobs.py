"""Distributed jobs of a sweep: each starts processes of its own.

Lightning starts the other processes of a distributed run by repeating the command line, which in a sweep is that of the
whole sweep. It also leaves behind environment variables and a process group, which the next job would take for its own.
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
    """Inside, the command line is that of this job alone; afterwards nothing of its processes is left."""
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
