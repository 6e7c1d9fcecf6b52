"""Metrics of both tasks. Imports nothing, so that `metrics.direction` can be used without torch."""
