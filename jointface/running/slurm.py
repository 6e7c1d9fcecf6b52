"""Requeues the job of a run on a SLURM cluster."""

import logging
import os
import subprocess

from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


@rank_zero_only
def requeue() -> None:
    """Puts this job back into the queue; SLURM runs its script again with the same job id. Warns if that fails."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.info("Job %s is back in the queue", job)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        log.warning("Job %s could not be put back into the queue: %s", job, reason)
