"""Studies: Optuna searches config keys, one run a trial. Optuna is an extra: only a sweep imports this package."""
