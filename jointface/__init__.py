"""JointFace: dense 3D face reconstruction and facial attributes, learned jointly by one network."""

from importlib.metadata import version

__version__ = version("jointface")
