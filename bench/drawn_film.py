"""Films of drawn people, whose heads move as told, for the benches of videos and the pictures of the docs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from jointface.geometry import FaceBox, apply_camera, crop_camera, euler_to_rotation, face_box
from jointface.synthesis.backgrounds import random_background
from jointface.synthesis.faces import FaceFactory, SyntheticFace

VIEW = 2.4  # side of a head's cutout in sizes of the face: hair and shoulders are in it


@dataclass(frozen=True)
class Place:
    """Where a head is in a picture. box: of the landmarks as if it looked at the viewer. angles: pitch, yaw, roll in
    degrees."""

    box: FaceBox
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)


class DrawnFilm:
    """Draws people into pictures of one size, before painted scenery.

    Args:
        people: numbers of the test split's faces; the last is in front.
    """

    def __init__(self, factory: FaceFactory, people: Sequence[int], width: int, height: int, scenery: int = 0) -> None:
        self.factory, self.faces = factory, [factory.face("test", number) for number in people]
        ground = (random_background(np.random.default_rng(scenery), 80) * 255).astype(np.uint8)
        self.ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)

    def camera(self, face: SyntheticFace, place: Place) -> torch.Tensor:
        """From model space to the picture."""
        angles = torch.tensor(place.angles).deg2rad()
        upright = torch.tensor([1.0, -1.0, 1.0])[:, None] * euler_to_rotation(torch.zeros(3))
        flat = torch.cat([upright, torch.zeros(3, 1)], dim=1)
        box = face_box(self.factory.landmarks68(face, flat))
        centre = apply_camera(flat[None], self._middle(face)[None, None])[0, 0]
        scale = place.box.size / box.size
        turned = scale * torch.tensor([1.0, -1.0, 1.0])[:, None] * euler_to_rotation(angles)
        middle = torch.tensor([place.box.x, place.box.y, 0.0]) + scale * (centre - torch.tensor([box.x, box.y, 0.0]))
        return torch.cat([turned, (middle - turned @ self._middle(face))[:, None]], dim=1)

    def _middle(self, face: SyntheticFace) -> torch.Tensor:
        """The point between the ears about which a head turns, in model space."""
        points = self.factory.landmarks68(face, torch.eye(3, 4))
        return (points[0] + points[16]) / 2

    def landmarks(self, person: int, place: Place) -> np.ndarray:
        """The true landmarks of a person, (68, 3), in pixels of the picture."""
        return self.factory.landmarks68(self.faces[person], self.camera(self.faces[person], place)).numpy()

    def picture(self, places: Sequence[Place | None]) -> np.ndarray:
        """One picture; None for a person who is not in it."""
        picture = self.ground.copy()
        for face, place in zip(self.faces, places, strict=True):
            if place is not None:
                self._paste(picture, face, place)
        return picture

    def _paste(self, picture: np.ndarray, face: SyntheticFace, place: Place) -> None:
        side = round(VIEW * place.box.size)
        left, top = round(place.box.x - side / 2), round(place.box.y - side / 2 - 0.1 * place.box.size)
        shift = torch.tensor([[1.0, 0.0, -left], [0.0, 1.0, -top]])
        scene = self.factory.scene(face, crop_camera(self.camera(face, place), shift), side)
        black, white = self.factory.renderer.render(
            [replace(scene, background=torch.full((3, side, side), grey)) for grey in (0.0, 1.0)], side
        )
        black, white = (one.permute(1, 2, 0).numpy().astype(np.float32) for one in (black, white))
        through = ((white - black).min(2, keepdims=True) / 255).clip(0, 1)
        height, width = picture.shape[:2]
        rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
        own = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        if rows.start < rows.stop and columns.start < columns.stop:
            picture[rows, columns] = black[own] + through[own] * picture[rows, columns]
