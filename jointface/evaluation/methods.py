"""Methods that predict 3D faces: networks, folders of other methods' predictions, the labels, the mean face.

All predict in pixels of the photo file (x right, y down, pixel centres at integers, z towards the viewer from any
origin), so that methods with different crops can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.packed import fingerprint
from jointface.errors import ConfigError
from jointface.evaluation.prediction_files import likely_mistake, list_predictions, read_prediction, same_triangles
from jointface.geometry.camera import pose_from_camera
from jointface.geometry.framing import warp_points
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.pose import pose_from_vertices
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder, frontal_face


@dataclass
class PredictedFace:
    """What a method predicts for one photo; None where it does not.

    landmarks68: (68, 2) or (68, 3). vertices: (V, 3), with triangles (F, 3). topology: the fingerprint of the morphable
    model (`jointface.datamodules.packed.fingerprint`) that the vertices belong to. pose: pitch, yaw, roll in degrees,
    in the convention of 300W-LP. shape_coefficients: (Ks,) of that model.
    """

    landmarks68: Float[Tensor, "68 dims"] | None = None
    vertices: Float[Tensor, "vertices 3"] | None = None
    triangles: Int[Tensor, "triangles 3"] | None = None
    topology: str | None = None
    pose: Float[Tensor, "3"] | None = None
    shape_coefficients: Float[Tensor, "shape"] | None = None


@runtime_checkable
class ShapeMethod(Protocol):
    """A method for 3D faces."""

    name: str

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        """A face for each photo, or None. samples: pixels and face boxes. files: the stem of each photo's file."""


class _ModelMethod:
    """A method that predicts the vertices of a morphable model."""

    def __init__(self, name: str, morphable_model: MorphableModel) -> None:
        self.name, self.model, self.topology = name, morphable_model, fingerprint(morphable_model)
        self.triangles, self.landmarks68 = morphable_model.triangles.cpu(), morphable_model.landmarks68.cpu()

    def make_face(
        self,
        vertices: Float[Tensor, "vertices 3"],
        pose: Float[Tensor, "3"],
        shape_coefficients: Float[Tensor, "shape"] | None,
    ) -> PredictedFace:
        landmarks68 = vertices[self.landmarks68]
        return PredictedFace(landmarks68, vertices, self.triangles, self.topology, pose, shape_coefficients)


class NetworkMethod(_ModelMethod):
    """A trained network, which sees crops as in training.

    The pose is that of the camera where the network regresses one (`MorphableDecoder`, which also gives shape
    coefficients), else that of the similarity from the mean face to the predicted face.

    Args:
        name: its row in tables.
        network: see `jointface.modules.load_model`; it is moved to the device, in evaluation mode. In float64
            (`network.double()`) results do not depend on batch_size, in float32 their sixth digit does.
        batch_size: crops in a forward pass.
        device: where it runs.

    Raises:
        ConfigError: the network has no shape decoder.
    """

    def __init__(
        self, name: str, network: FaceNetwork, batch_size: int = 32, device: str | torch.device = "cpu"
    ) -> None:
        if network.shape_decoder is None:
            raise ConfigError(
                f"{name}: the checkpoint predicts attributes and no 3D faces; give one with a shape decoder, or choose "
                "a benchmark of attributes"
            )
        super().__init__(name, network.shape_decoder.morphable_model)
        self.batch_size, self.device = batch_size, torch.device(device)
        self.network, self.decoder = network.to(self.device).eval(), network.shape_decoder
        self.transform = CropTransform(network.image_size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        starts = range(0, len(samples), self.batch_size)
        return [face for start in starts for face in self._predict(samples[start : start + self.batch_size])]

    @torch.no_grad()
    def _predict(self, samples: Sequence[FaceSample]) -> list[PredictedFace]:
        crops, transforms = zip(*(self.transform(sample.image, sample.box) for sample in samples), strict=True)
        # TensorFloat-32 keeps 10 bits, and cuDNN's algorithm would depend on the batch size.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            vertices, pose, shape = self._read(torch.stack(crops).to(self.device))
        vertices = to_photo(vertices, torch.stack(transforms))
        coefficients = [None] * len(vertices) if shape is None else shape
        return [self.make_face(*parts) for parts in zip(vertices, pose, coefficients, strict=True)]

    def _read(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vertices in crop space, pose in degrees, shape coefficients."""
        features = self.network.features(crops)
        vertices = self.decoder.vertices(self.decoder(features)).cpu()
        if isinstance(self.decoder, MorphableDecoder):
            shape, _, camera = self.decoder.coefficients(features)
            return vertices, pose_from_camera(camera.cpu(), 0)[:, :3].rad2deg().float(), shape.cpu().float()
        face = self.model.face_region.cpu()
        return vertices, pose_from_vertices(vertices[:, face], self.model.mean.cpu()[face]), None


class LabelMethod(_ModelMethod):
    """The labelled coefficients and camera as a prediction. Its error is the floor of a benchmark: how far the labelled
    landmarks are from those of the morphable model.

    Args:
        morphable_model: the model of the labels.

    Raises:
        ConfigError: on prediction, a label has another number of coefficients than the morphable model.
    """

    def __init__(self, morphable_model: MorphableModel) -> None:
        super().__init__("labels", morphable_model)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [self._face(sample) if "camera" in sample.labels else None for sample in samples]

    def _face(self, sample: FaceSample) -> PredictedFace:
        keys = ("shape_coefficients", "expression_coefficients", "camera")
        shape, expression, camera = (sample.labels[key][None] for key in keys)
        if (shape.shape[1], expression.shape[1]) != (self.model.num_shape, self.model.num_expression):
            raise ConfigError(
                f"{self.name}: the labels have {shape.shape[1]} + {expression.shape[1]} coefficients, the morphable "
                f"model {self.model.name} has {self.model.num_shape} + {self.model.num_expression}; read the data set "
                "with the same model"
            )
        vertices = self.model.project(shape, expression, camera)[0]
        pose = pose_from_camera(camera[0], sample.image.shape[0])[:3].rad2deg()
        return self.make_face(vertices, pose, shape[0])


class MeanFaceMethod(_ModelMethod):
    """The mean face looking straight ahead, in the middle of the face box: a prediction from the face box alone.

    Args:
        morphable_model: whose mean face.
    """

    def __init__(self, morphable_model: MorphableModel) -> None:
        super().__init__("mean face", morphable_model)
        self.transform = CropTransform(256)  # any size will do, as faces go back to the photo
        self.face = frontal_face(morphable_model, self.transform.size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [self._face(sample) for sample in samples]

    def _face(self, sample: FaceSample) -> PredictedFace:
        plain = torch.eye(2, 3).numpy()
        vertices = to_photo(self.face, torch.from_numpy(self.transform.to_crop(sample.box, plain)))
        return self.make_face(vertices, torch.zeros(3), torch.zeros(self.model.num_shape))


class FolderMethod:
    """Another method's predictions in a folder, see `jointface.evaluation.prediction_files` for the format.

    Photos without a file have no prediction. Predictions that do not look like pixels of the photo are used
    nevertheless; `remarks` says so.

    Args:
        name: its row in tables.
        folder: of the .npz files.
        morphable_model: if given, meshes with its number of vertices and its triangles count as its own: they get dense
            errors, and the 68 landmarks and the pose of the mesh where the file has none.

    Raises:
        DataError: the folder is missing or holds no .npz; on prediction, a file is damaged, see `read_prediction`.
    """

    def __init__(self, name: str, folder: str | Path, morphable_model: MorphableModel | None = None) -> None:
        self.name, self.folder, self.model = name, Path(folder), morphable_model
        self.topology = None if morphable_model is None else fingerprint(morphable_model)
        self.files = list_predictions(name, self.folder)
        self._mistakes: dict[str, str | None] = {}  # by the file that was read

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [
            self._face(f"{stem}.npz", sample) if f"{stem}.npz" in self.files else None
            for sample, stem in zip(samples, files, strict=True)
        ]

    def remarks(self) -> list[str]:
        """A sentence on each likely mistake in the predictions so far, and how many have it."""
        mistakes: dict[str, list[str]] = {}
        for file, mistake in self._mistakes.items():
            if mistake is not None:
                mistakes.setdefault(mistake, []).append(file)
        return [
            f"{self.name}: {len(files):,} of {len(self._mistakes):,} predictions, e.g. {files[0]}, {mistake}"
            for mistake, files in mistakes.items()
        ]

    def _face(self, file: str, sample: FaceSample) -> PredictedFace:
        read = read_prediction(self.folder / file).get
        face = PredictedFace(read("landmarks68"), read("vertices"), read("triangles"), pose=read("pose"))
        model, vertices = self.model, face.vertices
        if (
            model is not None
            and vertices is not None
            and len(vertices) == len(model.mean)
            and same_triangles(face.triangles, model.triangles)
        ):
            face.topology = self.topology
            if face.landmarks68 is None:
                face.landmarks68 = vertices[model.landmarks68]
            if face.pose is None:
                face.pose = pose_from_vertices(vertices[model.face_region], model.mean[model.face_region])
        self._mistakes[file] = likely_mistake(face.landmarks68, vertices, sample)
        return face


def to_photo(
    points: Float[Tensor, "*batch points 3"], to_crop: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Points of crop space in the photo; `to_crop` leads from photo to crop. z is scaled as x and y."""
    inverse = torch.linalg.inv(to_crop[..., :2].double())
    back = torch.cat([inverse, -inverse @ to_crop[..., 2:].double()], dim=-1)
    return warp_points(back, points.double()).float()


def is_finite(face: PredictedFace) -> bool:
    """Whether a prediction holds neither NaN nor infinities."""
    return all(value.isfinite().all() for value in vars(face).values() if isinstance(value, Tensor))
