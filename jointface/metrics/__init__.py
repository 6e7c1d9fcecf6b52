"""Metrics of the two tasks, as torchmetrics; imports nothing, so that names of metrics can be read without torch."""
