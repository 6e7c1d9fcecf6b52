"""Who is judged: this package's networks, other methods' predictions in a folder, the labels themselves, the mean face.

Every method predicts in the pixels of the photo as it is on disk (x right, y down, pixel centres at integers, z towards
the viewer in pixels), so that methods with different crops meet in one space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample


@dataclass
class PredictedFace:
    """What a method says of one photo; None where it says nothing.

    landmarks68: (68, 2) or (68, 3). vertices: (V, 3), with triangles (F, 3). topology: the fingerprint of the morphable
    model (`jointface.datamodules.packed.fingerprint`) whose vertices these are. pose: pitch, yaw, roll in degrees, the
    convention of 300W-LP. shape_coefficients: (Ks,) of that model.
    """

    landmarks68: Float[Tensor, "68 dims"] | None = None
    vertices: Float[Tensor, "vertices 3"] | None = None
    triangles: Int[Tensor, "triangles 3"] | None = None
    topology: str | None = None
    pose: Float[Tensor, "3"] | None = None
    shape_coefficients: Float[Tensor, "shape"] | None = None


class ShapeMethod(Protocol):
    """A method for 3D faces."""

    name: str

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        """A face for each photo, given its pixels, its face box and the stem of its file; None where it has none."""
