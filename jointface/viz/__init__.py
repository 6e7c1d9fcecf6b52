"""Turns arrays of predictions and metrics into pictures, figures and mesh files."""
