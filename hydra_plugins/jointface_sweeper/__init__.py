"""Hydra finds its plugins in the namespace package hydra_plugins, and nowhere else."""
