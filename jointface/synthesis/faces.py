"""Samples person, appearance, lights and view of face number i of a seed, reproducibly on every machine."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from jointface.errors import ConfigError, InputError
from jointface.geometry.camera import apply_camera, crop_camera, euler_to_rotation
from jointface.geometry.framing import compose, crop_transform, face_box
from jointface.geometry.morphable_model import linear_faces
from jointface.settings import require_whole_number
from jointface.synthesis.appearance import Appearance, Lights, sample_appearance, sample_lights, sample_view
from jointface.synthesis.backgrounds import background_photos, photo_background, random_background
from jointface.synthesis.face_assets import FaceAssets, load_assets, with_assets
from jointface.synthesis.head_cache import load_head
from jointface.synthesis.measures import AttributeMeter
from jointface.synthesis.people import Person, identity_coefficients, sample_expression, sample_person
from jointface.synthesis.renderer import Renderer
from jointface.synthesis.scanned_shapes import ScannedShapes
from jointface.synthesis.scenes import Scene
from jointface.synthesis.wardrobe import load_wardrobe

SPLITS = {"train": 0, "val": 1, "test": 2}
BACKGROUND_EXTENT, BACKGROUND_SIZE = 3, 80  # side of the canvas behind a face: in crops, and in pixels if painted


@dataclass(frozen=True)
class SyntheticFace:
    """A face before rendering.

    identity: number of the person, unique over all splits of a seed. camera: (3, 4) from model space to a crop with
    side 1 in the common framing. background, noise: seeds.
    """

    identity: int
    person: Person
    shape: Float[Tensor, "shape"]
    expression: Float[Tensor, "expression"]
    camera: Float[Tensor, "3 4"]
    appearance: Appearance
    lights: Lights
    background: int
    noise: float


class FaceFactory:
    """Samples and renders synthetic faces.

        factory = FaceFactory(seed=0)
        faces = [factory.face("train", index) for index in range(8)]
        cameras = torch.stack([factory.crop_camera(face, 128) for face in faces])
        images, attributes = factory.render(faces, cameras, 128), factory.attributes(faces)

    Args:
        seed: different seeds give different people.
        images_per_person: pictures of each person, with different expressions, lights, views and accessories.
        max_yaw: largest yaw of the head to either side, degrees.
        assets_dir: folder of MakeHuman's system assets for skin, hair, brows, lashes and teeth; None makes all of these
            procedurally.
        backgrounds_dir: folder of photos to use as backgrounds; None paints scenery.
        ict_dir: folder of ICT-FaceKit's model, for shapes of scanned faces; None takes MakeHuman's.
        supersampling: samples per pixel along each axis.
        shadows: whether the head casts soft shadows on itself.
        device: where to render. compiled: see `Renderer`.
        cache_dir: folder for the built head; None takes the user's cache.

    Raises:
        ConfigError: a number is out of range. DataError: a folder is missing, empty or broken.
    """

    def __init__(
        self,
        seed: int = 0,
        images_per_person: int = 1,
        max_yaw: float = 90.0,
        assets_dir: str | None = None,
        backgrounds_dir: str | None = None,
        ict_dir: str | None = None,
        supersampling: int = 1,
        device: torch.device | str = "cpu",
        compiled: bool = False,
        cache_dir: str | None = None,
        shadows: bool = False,
    ) -> None:
        whole = {"seed": (seed, 0), "images_per_person": (images_per_person, 1), "supersampling": (supersampling, 1)}
        for name, (value, least) in whole.items():
            require_whole_number(f"synthesis.{name}", value, least)
        if not isinstance(max_yaw, int | float) or not 0 <= max_yaw <= 90:
            raise ConfigError(f"synthesis.max_yaw={max_yaw}: expected degrees from 0 to 90")
        if backgrounds_dir is not None:
            background_photos(backgrounds_dir)
        self._settings = (
            seed, images_per_person, max_yaw, assets_dir, backgrounds_dir, ict_dir, supersampling, device, compiled,
            cache_dir, shadows,
        )  # fmt: skip
        self.seed, self.images_per_person, self.max_yaw = seed, images_per_person, max_yaw
        self.backgrounds_dir = backgrounds_dir
        self.head = load_head(cache_dir)
        self.wardrobe = load_wardrobe(self.head)
        self.assets: FaceAssets | None = None
        if assets_dir is not None:
            self.wardrobe, self.assets = load_assets(self.head, self.wardrobe, Path(assets_dir))
        self.meter = AttributeMeter(self.head)
        self.scans: ScannedShapes | None = None
        if ict_dir is not None:
            axes = [direction for direction, _ in self.meter.axes.values()]
            self.scans = ScannedShapes(self.head, ict_dir, axes, cache_dir)
        self.renderer = Renderer(self.head, self.wardrobe, self.assets, supersampling, device, compiled, shadows)
        model = self.head.model
        self._landmarks68 = model.mean[model.landmarks68], model.basis[:, model.landmarks68].contiguous()

    def __reduce__(self) -> tuple[type["FaceFactory"], tuple[Any, ...]]:
        """Pickles the settings alone: a process that is spawned builds the factory again. Its tensors would each take a
        file descriptor, and a fork server passes on at most 256 of them."""
        return FaceFactory, self._settings

    def face(self, split: str, index: int) -> SyntheticFace:
        """Samples face number `index` of a split ("train", "val" or "test"). No person is in two splits."""
        if split not in SPLITS or index < 0:
            raise InputError(f"no face {index} in split {split!r}: splits are {', '.join(SPLITS)}, faces count from 0")
        number, image = divmod(index, self.images_per_person)
        stream = (self.seed, SPLITS[split], number)
        rng = np.random.default_rng(stream)
        person = sample_person(rng, self.head.change_labels)
        appearance = sample_appearance(rng, person, self.wardrobe)
        noise = float(rng.uniform(0, 1000))
        if self.assets is not None:
            # (*stream, 0) would repeat the random numbers of `stream`.
            appearance = with_assets(np.random.default_rng((*stream, 0, 1)), person, appearance, self.assets)
        rng = np.random.default_rng((*stream, 1 + image))
        if image:
            # The same person on another day, with other accessories.
            worn = ["glasses", "sunglasses", "frame_colour", "clothes", "collar", "earrings"]
            if appearance.hair < 0 or self.wardrobe.hair[appearance.hair].fits_under_hat:
                worn += ["hat", "hat_colour"]
            other = sample_appearance(rng, person, self.wardrobe)
            appearance = replace(appearance, **{name: getattr(other, name) for name in worn})
        shape = identity_coefficients(self.head, [person])[0]
        if self.scans is not None:
            shape = self.scans.sample(np.random.default_rng((*stream, 0, 2)), shape)
        expression = sample_expression(rng, self.head.expression_labels)
        camera = self.framed_camera(shape, expression, sample_view(rng, self.max_yaw))
        lights, background = sample_lights(rng), int(rng.integers(2**31))
        identity = 3 * number + SPLITS[split]
        return SyntheticFace(identity, person, shape, expression, camera, appearance, lights, background, noise)

    def framed_camera(
        self, shape: Float[Tensor, "shape"], expression: Float[Tensor, "expression"], angles: Float[Tensor, "3"]
    ) -> Float[Tensor, "3 4"]:
        """Camera to a crop of side 1 in the common framing, for pitch, yaw and roll of the head in radians."""
        y_down = torch.tensor([1.0, -1.0, 1.0])
        camera = torch.cat([y_down[:, None] * euler_to_rotation(angles), torch.zeros(3, 1)], dim=1)
        landmarks = linear_faces(*self._landmarks68, torch.cat([shape, expression])[None])
        box = face_box(apply_camera(camera[None], landmarks)[0])
        return crop_camera(camera, crop_transform(box, 1))  # the centre of that crop's only pixel is (0, 0)

    def landmarks68(self, face: SyntheticFace, camera: Float[Tensor, "3 4"]) -> Float[Tensor, "68 3"]:
        """The 68 landmarks in this camera. One face at a time, because rounding in a batch depends on its size."""
        coefficients = torch.cat([face.shape, face.expression])[None]
        return apply_camera(camera[None], linear_faces(*self._landmarks68, coefficients))[0]

    def crop_camera(self, face: SyntheticFace, size: int) -> Float[Tensor, "3 4"]:
        """Camera from model space to the face's crop with size x size pixels."""
        to_pixels = torch.tensor([[size, 0.0, (size - 1) / 2], [0.0, size, (size - 1) / 2]])
        return crop_camera(face.camera, to_pixels)

    def render(
        self, faces: Sequence[SyntheticFace], cameras: Float[Tensor, "batch 3 4"], size: int
    ) -> UInt8[Tensor, "batch 3 size size"]:
        """Renders RGB pictures of the faces with these cameras."""
        return self.renderer.render([self.scene(*pair, size) for pair in zip(faces, cameras, strict=True)], size)

    def scene(self, face: SyntheticFace, camera: Float[Tensor, "3 4"], size: int) -> Scene:
        """Collects what the renderer needs to draw the face with this camera."""
        background = self._background(face, camera, size)
        return Scene(face.shape, face.expression, camera, face.appearance, face.lights, background, face.noise)

    def _background(self, face: SyntheticFace, camera: Float[Tensor, "3 4"], size: int) -> Float[Tensor, "3 size size"]:
        """The background. It is fixed relative to the face, whatever the framing of the picture."""
        rng = np.random.default_rng(face.background)
        if self.backgrounds_dir is not None:
            canvas = photo_background(rng, BACKGROUND_EXTENT * size, self.backgrounds_dir)
        else:
            canvas = random_background(rng, BACKGROUND_SIZE)
        # From the crop of side 1 to the picture, and from the canvas around that crop to the crop.
        unit = face.camera[:2, :3]  # two rows of a scaled rotation, so the scaled transpose is the inverse
        linear = camera[:2, :3] @ unit.T / unit[0].square().sum()
        to_picture = torch.cat([linear, (camera[:2, 3] - linear @ face.camera[:2, 3])[:, None]], dim=1)
        pixels = canvas.shape[0] / BACKGROUND_EXTENT
        corner = -(canvas.shape[0] - 1) / 2 / pixels
        from_canvas = torch.tensor([[1 / pixels, 0.0, corner], [0.0, 1 / pixels, corner]])
        warp = compose(to_picture, from_canvas).numpy()
        warped = cv2.warpAffine(canvas, warp, (size, size), borderMode=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(warped).movedim(-1, 0).contiguous()

    def scores(self, faces: Sequence[SyntheticFace]) -> Float[Tensor, "batch attributes"]:
        """Measured score minus threshold of each attribute, in the order of `measures.SYNTHETIC`."""
        shape, expression = (torch.stack(part) for part in zip(*((f.shape, f.expression) for f in faces), strict=True))
        return self.meter.scores(shape, expression, [face.appearance for face in faces])

    def attributes(self, faces: Sequence[SyntheticFace]) -> Bool[Tensor, "batch attributes"]:
        """Which attributes are present, in the order of `measures.SYNTHETIC`."""
        return self.scores(faces) > 0


DEFAULTS = {  # filled in, so that equal settings are equal whether or not they are spelled out
    name: parameter.default
    for name, parameter in inspect.signature(FaceFactory).parameters.items()
    if name not in ("device", "compiled")
}
# Data sets with the same settings in a process share one factory, because its renderer holds the textures.
shared_factory = lru_cache(maxsize=4)(FaceFactory)
