"""Benchmarks: ratios against simple baselines, measured side by side in one run (`make bench`)."""
