"""Synthetic faces: labelled images rendered from a head model."""
