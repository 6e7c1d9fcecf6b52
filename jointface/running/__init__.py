"""Runs: their folder and processes, SLURM jobs, sweeps and studies, stopping and resuming."""
