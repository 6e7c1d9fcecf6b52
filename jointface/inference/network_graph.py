"""A network as one graph of tensor operations, from uint8 crops to everything that is asked of a face."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from jointface.files import write_atomically
from jointface.geometry.camera import apply_camera, center_depth
from jointface.inference.backends import network_facts
from jointface.inference.network_metadata import output_names
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder

POLAR_STEPS = 14  # of Newton's iteration, which doubles its digits in each of the last ones


class NetworkGraph(nn.Module):
    """The network with preprocessing, morphable model, pose and calibration, without anything that depends on values.

    It maps crops to those of `output_names`, in this order:

        vertices       (B, V, 3)  in pixels of the crop: x right, y down, z towards the viewer, relative to their mean
        landmarks68    (B, 68, 3) of iBUG, in the same pixels
        pose           (B, 3, 3)  rotation from model space to the picture with y up, as `Pose.matrix`
        logits         (B, M)     of the attributes
        probabilities  (B, M)     of the attributes, calibrated: sigmoid(logit - log alpha)
    """

    log_alpha: Float[Tensor, "attributes"]
    face_region: Tensor
    mean_face: Float[Tensor, "region 3"]

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network, self.facts = network, network_facts(network)
        self.register_buffer("log_alpha", torch.from_numpy(self.facts.alpha).log(), persistent=False)
        if (decoder := network.shape_decoder) is not None:
            region = decoder.morphable_model.face_region.nonzero()[:, 0]
            mean = decoder.morphable_model.mean[region]
            self.register_buffer("face_region", region, persistent=False)
            self.register_buffer("mean_face", (mean - mean.mean(0)) / mean.std(), persistent=False)

    @property
    def output_names(self) -> list[str]:
        return output_names(self.facts)

    def forward(self, image: UInt8[Tensor, "batch 3 size size"]) -> tuple[Tensor, ...]:
        features = self.network.features(image)
        outputs: tuple[Tensor, ...] = ()
        if self.network.shape_decoder is not None:
            outputs += self._shape(features)
        if self.network.attribute_classifier is not None:
            logits = self.network.attribute_classifier(features)
            outputs += (logits, (logits - self.log_alpha).sigmoid())
        return outputs

    def _shape(self, features: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor, Tensor]:
        decoder = self.network.shape_decoder
        assert decoder is not None
        if isinstance(decoder, MorphableDecoder):
            # Not decoder.vertices, which asks whether a camera mirrors; those of the decoder never do.
            shape, expression, camera = decoder.coefficients(features)
            vertices = center_depth(apply_camera(camera, decoder.morphable_model(shape, expression)))
            rotation = camera[:, :, :3] * camera.new_tensor([1.0, -1.0, 1.0])[:, None]
            rotation = rotation / rotation[:, :1].norm(dim=-1, keepdim=True)
        else:
            vertices = decoder.vertices(decoder(features))
            rotation = self._rotation(vertices)
        return vertices, vertices.index_select(1, decoder.morphable_model.landmarks68), rotation

    def _rotation(self, vertices: Float[Tensor, "batch vertices 3"]) -> Float[Tensor, "batch 3 3"]:
        """That of `rotation_from_vertices`: the orthogonal factor of the covariance with the mean face."""
        face = vertices.index_select(1, self.face_region) * vertices.new_tensor([1.0, -1.0, 1.0])
        face = face - face.mean(1, keepdim=True)
        return orthogonal_factor(face.mT @ self.mean_face)


def orthogonal_factor(matrix: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    """U of the polar decomposition U P of matrices with a positive determinant: a rotation.

    By Newton's iteration (Higham, SIAM J. Sci. Stat. Comput. 1986), as ONNX has no singular value decomposition.
    """
    factor = matrix / matrix.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(POLAR_STEPS):
        a, b, c = factor.unbind(1)
        cofactors = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=1)
        determinant = (factor[:, :1] * cofactors[:, :1]).sum(-1, keepdim=True)
        factor = (factor + cofactors / determinant) / 2
    return factor


def _cross(a: Float[Tensor, "batch 3"], b: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """torch.cross of arithmetic that every runtime has."""
    (ax, ay, az), (bx, by, bz) = a.unbind(1), b.unbind(1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=1)


def trace(network: FaceNetwork) -> ExportedProgram:
    """The graph of a network for batches of any size, on the CPU and in float32."""
    graph = NetworkGraph(network.cpu().float().eval()).eval()
    crops = torch.zeros(2, 3, network.image_size, network.image_size, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (crops,), dynamic_shapes=({0: Dim("batch")},))


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a program whole, with texts inside that torch.export.load returns as `extra_files`."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of source files
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=dict(metadata))
    write_atomically(path, content.getvalue())
