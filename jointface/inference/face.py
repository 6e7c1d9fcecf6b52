"""What is known of a face in a photo, in the pixels of that photo."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Float32, Int, UInt8

from jointface.errors import ConfigError
from jointface.geometry.camera import rotation_to_euler
from jointface.geometry.framing import FaceBox
from jointface.inference.crops import cut_crop, to_crop
from jointface.inference.mesh_files import photo_mesh, save_mesh
from jointface.inference.photos import Photo
from jointface.viz.overlay import overlay_circles, overlay_landmarks, overlay_mesh

VIEW = 512  # side of an overlay in pixels
VIEW_MARGIN = 1.3  # side of an overlay's part of the photo / side of the network's crop


class Pose(NamedTuple):
    """How a head is turned.

    matrix: R from model space (x to the viewer's right, y up, z towards the viewer) to the picture with y up.
    pitch, yaw, roll: degrees, with R = Rx(pitch) Ry(yaw) Rz(roll) in the signs of 300W-LP and AFLW2000-3D, which
    docs/conventions.md writes out: a face with positive pitch looks up, with positive yaw to the left of the picture;
    with positive roll the top of the head leans to the right of the picture. yaw is from -90 to 90.
    """

    matrix: Float[np.ndarray, "3 3"]
    pitch: float
    yaw: float
    roll: float

    @classmethod
    def from_matrix(cls, matrix: Float[np.ndarray, "3 3"]) -> "Pose":
        """The pose of a rotation."""
        angles = rotation_to_euler(torch.from_numpy(matrix)).rad2deg().tolist()
        return cls(matrix, *angles)


@dataclass(frozen=True, repr=False)
class Face:
    """A face in a photo. x is right, y down, pixel centres are at integers; arrays are to be treated as read-only.

    box: centre and size of the face in pixels. score: of the finder, 0 to 1. vertices: x, y in pixels and z towards the
    viewer in the same unit, relative to the mean of the vertices. triangles: counter-clockwise seen from outside.
    uv: the model's texture coordinates, 0 to 1, v upwards. landmarks: iBUG's 68, with z. attributes: the probability of
    each, at the prevalence of the training data. landmark_std: the standard deviation of x and of y of each landmark,
    in pixels. What the network does not predict is None, or empty.
    """

    photo: Photo
    box: FaceBox
    score: float
    vertices: Float32[np.ndarray, "vertices 3"] | None = None
    triangles: Int[np.ndarray, "triangles 3"] | None = None
    uv: Float[np.ndarray, "vertices 2"] | None = None
    landmarks: Float32[np.ndarray, "68 3"] | None = None
    pose: Pose | None = None
    attributes: dict[str, float] = field(default_factory=dict)
    landmark_std: Float32[np.ndarray, "68"] | None = None

    def __repr__(self) -> str:
        parts = [f"box=({', '.join(f'{value:.1f}' for value in self.box)})", f"score={self.score:.2f}"]
        if self.pose is not None:
            parts.append(f"yaw={self.pose.yaw:.0f}")
        likeliest = sorted(self.attributes, key=lambda name: -self.attributes[name])[:3]
        return f"Face({', '.join([*parts, *(f'{name}={self.attributes[name]:.2f}' for name in likeliest)])})"

    def mesh(self, scale: float = 1.0) -> trimesh.Trimesh:
        """The face with the photo as texture: x right, y up, z towards the viewer, so that a vertex at (x, y) of the
        photo is at scale * (x, -y).

        Args:
            scale: units of the mesh in a pixel of the photo.

        Raises:
            ConfigError: the network predicts no shape.
        """
        if self.vertices is None or self.triangles is None:
            raise ConfigError("this network predicts no shape, so a face has no mesh; use a checkpoint with a decoder")
        return photo_mesh(self.photo.image, self.vertices, self.triangles, scale)

    def save(self, path: str | os.PathLike[str], scale: float = 1.0) -> None:
        """Writes the mesh with its texture: .glb, .obj (with .mtl and a picture beside it) or .ply.

        Raises:
            ConfigError: another ending, or the network predicts no shape. DataError: the file cannot be written.
        """
        save_mesh(self.mesh(scale), path)

    def overlay(self) -> UInt8[np.ndarray, "512 512 3"]:
        """The face cut out of the photo, overlaid with its mesh, its landmarks and, if known, a circle of one standard
        deviation around each."""
        frame = FaceBox(self.box.x, self.box.y, VIEW_MARGIN * self.box.size)
        picture, transform = cut_crop(self.photo.image, frame, VIEW)
        if self.vertices is None or self.triangles is None or self.landmarks is None:
            return picture
        vertices, landmarks = (
            to_crop(points, transform).astype(np.float32) for points in (self.vertices, self.landmarks)
        )
        picture = overlay_landmarks(overlay_mesh(picture, vertices, self.triangles, enlargement=1), landmarks)
        if self.landmark_std is None:
            return picture
        return overlay_circles(picture, landmarks, self.landmark_std * transform[0, 0])
