"""Hydra's Optuna sweeper; Hydra looks for plugins only in the namespace package hydra_plugins."""
