"""Makes docs/figures/ten_people.jpg: `python -m bench.ten_people DATA CHECKPOINT`.

Of ten CC0 portraits in DATA/portraits: the photo, and the neutral face that the network sees in it, that is the mean
face with the person's identity coefficients alone, from the front and from the side. The last row shows the distance
from the mean face: red outwards, blue inwards. It prints the mean square of the identity coefficients, which is 1 for
the people that are drawn with the synthetic head.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from jointface import FaceReader
from jointface.geometry import FaceBox, MorphableModel
from jointface.geometry.mesh import vertex_normals
from jointface.inference.backends import TorchNetwork
from jointface.inference.crops import cut_crop
from jointface.inference.face import VIEW_MARGIN, Face
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder
from jointface.viz.mesh_view import view_mesh

OUTPUT = Path("docs/figures/ten_people.jpg")
PEOPLE = ("041", "097", "081", "092", "047", "025", "013", "022", "034", "062")
SIZE, SIDE = 150, 50.0  # pixels; degrees of yaw
LARGEST = 0.03  # of the face's size: the distance from the mean face with the strongest colour


@torch.inference_mode()
def identity(network: FaceNetwork, decoder: MorphableDecoder, face: Face) -> torch.Tensor:
    """The identity coefficients (1, K) of a face."""
    crop = cut_crop(face.photo.image, face.box, network.image_size)[0].transpose(2, 0, 1)
    return decoder.outputs(network.features(torch.from_numpy(crop.copy())[None]))[0]


def column(model: MorphableModel, coefficients: torch.Tensor, face: Face) -> np.ndarray:
    """The pictures of one person, one below the other."""
    frame = FaceBox(face.box.x, face.box.y - 0.12 * face.box.size, VIEW_MARGIN * face.box.size)
    vertices, mean = model(coefficients, torch.zeros(1, model.num_expression))[0], model.mean
    out = ((vertices - mean) * vertex_normals(mean.double(), model.triangles)).sum(1)
    size = (mean[model.landmarks68].amax(0) - mean[model.landmarks68].amin(0))[:2].mean()
    strength = (out / (LARGEST * size)).clamp(-1, 1).numpy()[:, None]
    white, red, blue = (np.array(colour, np.float64) for colour in ((235, 235, 235), (215, 48, 39), (69, 117, 180)))
    colours = white + strength.clip(min=0) * (red - white) - strength.clip(max=0) * (blue - white)
    y_down = vertices.numpy() * np.array([1.0, -1.0, 1.0], np.float32)
    views = [
        view_mesh(y_down, face.triangles, yaw=yaw, colours=of, size=SIZE)
        for yaw, of in ((0.0, None), (SIDE, None), (0.0, colours))
    ]
    return np.concatenate([cut_crop(face.photo.image, frame, SIZE)[0], *views])


def main() -> None:
    """Writes the picture."""
    data, checkpoint = sys.argv[1:]
    reader = FaceReader.load(checkpoint, max_faces=1)
    photos = [Path(data) / "portraits" / "photos" / f"{name}.jpg" for name in PEOPLE]
    assert isinstance(reader.network, TorchNetwork)
    network = reader.network.network
    decoder = network.shape_decoder
    assert isinstance(decoder, MorphableDecoder)
    faces = [face for of_photo in reader(photos) for face in of_photo]
    coefficients = [identity(network, decoder, face) for face in faces]
    print(f"identity coefficients: mean square {torch.cat(coefficients).square().mean():.2f}")
    pairs = zip(coefficients, faces, strict=True)
    columns = [column(decoder.morphable_model, of_face, face) for of_face, face in pairs]
    cv2.imwrite(str(OUTPUT), np.concatenate(columns, axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
