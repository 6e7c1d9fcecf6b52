"""Who is judged: this package's networks, other methods' predictions in a folder, the labels themselves, the mean face.

Every method predicts in the pixels of the photo as it is on disk (x right, y down, pixel centres at integers, z towards
the viewer in pixels, from any origin), so that methods with different crops meet in one space.
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
from jointface.datamodules.on_disk import file_names, require_folder
from jointface.datamodules.packed import fingerprint
from jointface.errors import ConfigError, DataError
from jointface.evaluation.prediction_checks import suspicion
from jointface.evaluation.prediction_files import FORMAT, read_prediction
from jointface.evaluation.result import MISSING_FILE
from jointface.geometry.camera import pose_from_camera
from jointface.geometry.framing import warp_points
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.pose import pose_from_vertices
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder, frontal_face


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


@runtime_checkable
class ShapeMethod(Protocol):
    """A method for 3D faces."""

    name: str

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        """A face for each photo, given its pixels, its face box and the stem of its file; None where it has none."""


class NetworkMethod:
    """A trained network, on the crops that it was trained with.

    The pose is that of the camera where the network regresses one (`MorphableDecoder`), with its shape coefficients;
    else that of the similarity from the mean face to the predicted one.

    Args:
        name: its row in tables.
        network: see `jointface.modules.load_model`; moved to the device, in evaluation mode. In float64
            (`network.double()`) results do not depend on batch_size, in float32 their sixth digit does.
        batch_size: crops in a pass.
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
        self.name, self.batch_size, self.device = name, batch_size, torch.device(device)
        self.network = network.to(self.device).eval()
        self.decoder = network.shape_decoder
        self.model = self.decoder.morphable_model
        self.topology = fingerprint(self.model)
        self.triangles, self.landmarks68 = self.model.triangles.cpu(), self.model.landmarks68.cpu()
        self.transform = CropTransform(network.image_size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        starts = range(0, len(samples), self.batch_size)
        return [face for start in starts for face in self._predict(samples[start : start + self.batch_size])]

    @torch.no_grad()
    def _predict(self, samples: Sequence[FaceSample]) -> list[PredictedFace]:
        crops, transforms = zip(*(self.transform(sample.image, sample.box) for sample in samples), strict=True)
        # TensorFloat-32 keeps 10 bits, and another batch size takes another algorithm.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            vertices, pose, shape = self._read(torch.stack(crops).to(self.device))
        vertices = to_photo(vertices, torch.stack(transforms))
        return [
            PredictedFace(
                landmarks68=face[self.landmarks68],
                vertices=face,
                triangles=self.triangles,
                topology=self.topology,
                pose=pose[n],
                shape_coefficients=None if shape is None else shape[n],
            )
            for n, face in enumerate(vertices)
        ]

    def _read(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vertices in crop space, pose in degrees, shape coefficients."""
        features = self.network.features(crops)
        vertices = self.decoder.vertices(self.decoder(features)).cpu()
        if isinstance(self.decoder, MorphableDecoder):
            shape, _, camera = self.decoder.coefficients(features)
            return vertices, pose_from_camera(camera.cpu(), 0)[:, :3].rad2deg().float(), shape.cpu().float()
        face = self.model.face_region.cpu()
        return vertices, pose_from_vertices(vertices[:, face], self.model.mean.cpu()[face]), None


class LabelMethod:
    """The coefficients and the camera of the labels, as if they were predicted: the floor of a benchmark, which is what
    the labels' own landmarks differ from the morphable model's.

    Args:
        morphable_model: the model that the labels refer to.
        name: its row in tables.

    Raises:
        ConfigError: a photo's label has another number of coefficients than the morphable model.
    """

    def __init__(self, morphable_model: MorphableModel, name: str = "labels") -> None:
        self.name, self.model, self.topology = name, morphable_model, fingerprint(morphable_model)

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
        return PredictedFace(
            landmarks68=vertices[self.model.landmarks68],
            vertices=vertices,
            triangles=self.model.triangles,
            topology=self.topology,
            pose=pose_from_camera(camera[0], sample.image.shape[0])[:3].rad2deg(),
            shape_coefficients=shape[0],
        )


class MeanFaceMethod:
    """The mean face looking straight ahead, in the middle of the face box: what knowing only the box is worth.

    Args:
        morphable_model: whose mean face.
        name: its row in tables.
    """

    def __init__(self, morphable_model: MorphableModel, name: str = "mean face") -> None:
        self.name, self.model, self.topology = name, morphable_model, fingerprint(morphable_model)
        self.transform = CropTransform(256)  # of any size: the face goes back to the photo
        self.face = frontal_face(morphable_model, self.transform.size)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [self._face(sample) for sample in samples]

    def _face(self, sample: FaceSample) -> PredictedFace:
        plain = torch.eye(2, 3).numpy()
        vertices = to_photo(self.face, torch.from_numpy(self.transform.to_crop(sample.box, plain)))
        return PredictedFace(
            landmarks68=vertices[self.model.landmarks68],
            vertices=vertices,
            triangles=self.model.triangles,
            topology=self.topology,
            pose=torch.zeros(3),
            shape_coefficients=torch.zeros(self.model.num_shape),
        )


class FolderMethod:
    """Another method's predictions, a file STEM.npz for each photo; see `prediction_files` for the format.

    Photos without a file have no prediction; benchmarks count them with `missing_note`. Predictions that look as if
    they were not in pixels of the photo are taken as they are, and remarked upon.

    Args:
        name: its row in tables.
        folder: of the .npz files.
        morphable_model: where given, meshes with its number of vertices and its triangles are taken for its own: they
            take part in dense errors, and give the 68 landmarks and the pose where the file has none.

    Raises:
        DataError: the folder is missing or holds no .npz; on prediction, a file is damaged, see `read_prediction`.
    """

    def __init__(self, name: str, folder: str | Path, morphable_model: MorphableModel | None = None) -> None:
        self.name, self.folder, self.model = name, Path(folder), morphable_model
        self.topology = None if morphable_model is None else fingerprint(morphable_model)
        self.files = prediction_files(name, self.folder)
        self._suspicions: dict[str, str | None] = {}  # of each file that was read

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [
            self._face(f"{stem}.npz", sample) if f"{stem}.npz" in self.files else None
            for sample, stem in zip(samples, files, strict=True)
        ]

    def remarks(self) -> list[str]:
        """A sentence on each thing that looks wrong with the predictions so far: of how many, and the likely cause."""
        causes: dict[str, list[str]] = {}
        for file, cause in self._suspicions.items():
            if cause is not None:
                causes.setdefault(cause, []).append(file)
        return [
            f"{self.name}: {len(files):,} of {len(self._suspicions):,} predictions, e.g. {files[0]}, {cause}"
            for cause, files in causes.items()
        ]

    def _face(self, file: str, sample: FaceSample) -> PredictedFace:
        get = read_prediction(self.folder / file).get
        face = PredictedFace(get("landmarks68"), get("vertices"), get("triangles"), pose=get("pose"))
        if self.model is not None and face.vertices is not None and _same_mesh(face, self.model):
            region = self.model.face_region
            face.topology = self.topology
            if face.landmarks68 is None:
                face.landmarks68 = face.vertices[self.model.landmarks68]
            if face.pose is None:
                face.pose = pose_from_vertices(face.vertices[region], self.model.mean[region])
        self._suspicions[file] = suspicion(face.landmarks68, face.vertices, sample)
        return face


def prediction_files(name: str, folder: Path) -> frozenset[str]:
    """The .npz files in a method's folder of predictions.

    Raises:
        DataError: the folder is missing or holds none.
    """
    require_folder(folder, f"the predictions of {name}", "set compare=[NAME:FOLDER]")
    files = frozenset(file for file in file_names(folder) if file.endswith(".npz"))
    if not files:
        raise DataError(f"no .npz file in {folder.absolute()}: looked there for predictions; {FORMAT}")
    return files


def _same_mesh(face: PredictedFace, model: MorphableModel) -> bool:
    if face.vertices is None or face.triangles is None or len(face.vertices) != len(model.mean):
        return False
    # Programs differ in the winding.
    return torch.equal(face.triangles.sort(1).values, model.triangles.sort(1).values)


def missing_note(method: str, missing: Sequence[str], photos: int) -> str:
    """One sentence on the photos that a method says nothing of; its errors are means over the others. The report lists
    them all, where the result has them as `missing`."""
    return (
        f"{method} has no prediction for {len(missing):,} of {photos:,} photos, which its errors leave out; "
        f"{MISSING_FILE} lists them."
    )


def to_photo(
    points: Float[Tensor, "*batch points 3"], to_crop: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Points of crop space in the photo that the similarity `to_crop` leads from; z takes the scale."""
    inverse = torch.linalg.inv(to_crop[..., :2].double())
    back = torch.cat([inverse, -inverse @ to_crop[..., 2:].double()], dim=-1)
    return warp_points(back, points.double()).float()


def is_finite(face: PredictedFace) -> bool:
    """Whether a prediction holds no NaN and nothing infinite."""
    return all(value.isfinite().all() for value in vars(face).values() if isinstance(value, Tensor))
