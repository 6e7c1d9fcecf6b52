"""Methods that predict 3D faces: networks, folders of other methods' predictions, the labels, the mean face.

All predict in pixels of the photo file (x right, y down, pixel centres at integers, z towards the viewer with any
origin), so that methods with different crops can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.packed import fingerprint
from jointface.errors import ConfigError
from jointface.evaluation.network_outputs import REPRODUCIBLE
from jointface.evaluation.prediction_files import likely_mistake, list_predictions, read_prediction, same_triangles
from jointface.geometry.camera import pose_from_camera
from jointface.geometry.framing import warp_points
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.pose import pose_from_vertices
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder, frontal_face


@dataclass
class PredictedFace:
    """A method's prediction for one photo; None for anything it does not predict.

    landmarks68: (68, 2) or (68, 3). vertices: (V, 3), with triangles (F, 3). topology: the fingerprint of the morphable
    model (`jointface.datamodules.packed.fingerprint`) to which the vertices belong. pose: pitch, yaw, roll in degrees,
    in the convention of 300W-LP. shape_coefficients: (Ks,) for that model. neutral: computes the vertices (V, 3) and 68
    landmarks (68, 3) of the same person without expression, in model space.
    """

    landmarks68: Float[Tensor, "68 dims"] | None = None
    vertices: Float[Tensor, "vertices 3"] | None = None
    triangles: Int[Tensor, "triangles 3"] | None = None
    topology: str | None = None
    pose: Float[Tensor, "3"] | None = None
    shape_coefficients: Float[Tensor, "shape"] | None = None
    neutral: Callable[[], tuple[Tensor, Tensor]] | None = None


@runtime_checkable
class ShapeMethod(Protocol):
    """A method that predicts 3D faces."""

    name: str

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        """A face for each photo, or None. samples: pixels and face boxes. files: the stem of each photo's file."""


class _ModelMethod:
    """Base of the methods that use a morphable model."""

    def __init__(self, name: str, morphable_model: MorphableModel) -> None:
        self.name, self.model, self.topology = name, morphable_model, fingerprint(morphable_model)
        self.triangles, self.landmarks68 = morphable_model.triangles.cpu(), morphable_model.landmarks68.cpu()

    def make_face(self, vertices: Tensor, pose: Tensor, shape: Tensor | None) -> PredictedFace:
        neutral = None if shape is None else partial(self.neutral, shape)
        return PredictedFace(vertices[self.landmarks68], vertices, self.triangles, self.topology, pose, shape, neutral)

    def neutral(self, shape: Float[Tensor, "shape"]) -> tuple[Tensor, Tensor]:
        """The vertices and landmarks of a face without expression, in model space."""
        model, expression = self.model, torch.zeros(1, self.model.num_expression)
        vertices = model(shape[None].to(model.mean), expression.to(model.mean))[0].cpu()
        return vertices, vertices[self.landmarks68]

    def pose_of(self, vertices: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch 3"]:
        """The pose of faces, from the similarity that maps the mean face to each of them, without the necks."""
        region = self.model.face_region.cpu()
        return pose_from_vertices(vertices[..., region, :], self.model.mean.cpu()[region])


class NetworkMethod(_ModelMethod):
    """A trained network with a shape decoder; it gets the same kind of crops as in training.

    If the network regresses a camera (`MorphableDecoder`, which also gives shape coefficients), the camera determines
    the pose, else the similarity from the mean face to the predicted face does. In float64 results do not depend on
    batch_size; in float32 their sixth digit does.
    """

    def __init__(
        self, name: str, network: FaceNetwork, batch_size: int = 32, device: str | torch.device = "cpu"
    ) -> None:
        assert network.shape_decoder is not None
        super().__init__(name, network.shape_decoder.morphable_model)
        self.batch_size, self.device = batch_size, torch.device(device)
        self.network, self.decoder = network.to(self.device).eval(), network.shape_decoder
        self.transform = CropTransform(network.image_size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        starts = range(0, len(samples), self.batch_size)
        return [face for start in starts for face in self._predict(samples[start : start + self.batch_size])]

    @REPRODUCIBLE
    @torch.no_grad()
    def _predict(self, samples: Sequence[FaceSample]) -> list[PredictedFace]:
        crops, to_crops = zip(*(self.transform(sample.image, sample.box) for sample in samples), strict=True)
        features = self.network.features(torch.stack(crops).to(self.device))
        vertices = self.decoder.vertices(self.decoder(features)).cpu()
        coefficients: Sequence[Tensor | None] = [None] * len(samples)
        if isinstance(self.decoder, MorphableDecoder):
            shape, _, camera = self.decoder.outputs(features)
            pose, coefficients = pose_from_camera(camera.cpu(), 0)[:, :3].rad2deg().float(), [*shape.cpu().float()]
        else:
            pose = self.pose_of(vertices)
        vertices = to_photo(vertices, torch.stack(to_crops))
        return [self.make_face(*parts) for parts in zip(vertices, pose, coefficients, strict=True)]


class LabelMethod(_ModelMethod):
    """Predicts the labelled coefficients and camera. Its error is a benchmark's lower bound: the distance from the
    labelled landmarks to those of the labels' morphable model."""

    def __init__(self, morphable_model: MorphableModel) -> None:
        super().__init__("labels", morphable_model)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [self._face(sample) if "camera" in sample.labels else None for sample in samples]

    def truth(self, sample: FaceSample) -> PredictedFace:
        """The ground truth for errors: the labelled face, with the labels' own landmarks if there are any."""
        face = self._face(sample)
        return replace(face, landmarks68=sample.labels.get("landmarks68", face.landmarks68))

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
    """Predicts the mean face looking straight ahead in the middle of the face box, using nothing but the face box."""

    def __init__(self, morphable_model: MorphableModel) -> None:
        super().__init__("mean face", morphable_model)
        self.transform = CropTransform(256)  # any size works, as faces are mapped back to the photo
        self.face = frontal_face(morphable_model, self.transform.size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        plain, pose, shape = np.eye(2, 3, dtype=np.float32), torch.zeros(3), torch.zeros(self.model.num_shape)
        to_crops = [torch.from_numpy(self.transform.to_crop(sample.box, plain)) for sample in samples]
        return [self.make_face(to_photo(self.face, to_crop), pose, shape) for to_crop in to_crops]


class FolderMethod(_ModelMethod):
    """Another method's predictions in a folder, see `jointface.evaluation.prediction_files` for the format.

    Photos without a file have no prediction. Predictions that do not seem to be in pixels of the photo are used anyway,
    but `remarks` reports them. Meshes with the triangles of the morphable model get dense errors; if the file has no
    landmarks or pose, these are taken from the mesh.
    """

    def __init__(self, name: str, folder: Path, morphable_model: MorphableModel) -> None:
        super().__init__(name, morphable_model)
        self.folder, self.files = folder, list_predictions(name, folder)
        self._mistakes: dict[str, str | None] = {}  # by file read so far

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [
            self._face(f"{stem}.npz", sample) if f"{stem}.npz" in self.files else None
            for sample, stem in zip(samples, files, strict=True)
        ]

    def remarks(self) -> list[str]:
        """A sentence about each likely mistake in the predictions so far, with the number of files that have it."""
        mistakes = pd.Series(self._mistakes, dtype=object).dropna()
        return [
            f"{self.name}: {len(files):,} of {len(self._mistakes):,} predictions, e.g. {files.index[0]}, {mistake}"
            for mistake, files in mistakes.groupby(mistakes, sort=False)
        ]

    def _face(self, file: str, sample: FaceSample) -> PredictedFace:
        read = read_prediction(self.folder / file).get
        face = PredictedFace(read("landmarks68"), read("vertices"), read("triangles"), pose=read("pose"))
        vertices, triangles = face.vertices, face.triangles
        if vertices is not None and len(vertices) == len(self.model.mean) and same_triangles(triangles, self.triangles):
            of_model = self.make_face(vertices, self.pose_of(vertices), None)
            face = replace(of_model, **{key: value for key, value in vars(face).items() if value is not None})
        self._mistakes[file] = likely_mistake(face.landmarks68, face.vertices, sample)
        return face


def to_photo(
    points: Float[Tensor, "*batch points 3"], to_crop: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Maps points from crop space to the photo; `to_crop` maps from photo to crop. z is scaled like x and y."""
    inverse = torch.linalg.inv(to_crop[..., :2].double())
    back = torch.cat([inverse, -inverse @ to_crop[..., 2:].double()], dim=-1)
    return warp_points(back, points.double()).float()
