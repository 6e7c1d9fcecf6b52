"""Evaluates trained models and other methods by published protocols."""
