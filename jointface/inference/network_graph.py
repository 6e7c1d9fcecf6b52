"""A network as one graph of tensor operations, from uint8 crops to everything that is asked of a face."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from jointface.files import write_atomically
from jointface.geometry.camera import apply_camera, center_depth
from jointface.inference.backends import network_facts
from jointface.inference.network_metadata import output_names
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder

SQUARINGS = 8  # of the matrix whose eigenvector is the rotation: its 256th power


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
    quaternion_forms: Float[Tensor, "9 16"]
    face_region: Tensor
    mean_face: Float[Tensor, "region 3"]

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network, self.facts = network, network_facts(network)
        self.register_buffer("log_alpha", torch.from_numpy(self.facts.alpha).log(), persistent=False)
        if (decoder := network.shape_decoder) is not None:
            region = decoder.morphable_model.face_region.nonzero()[:, 0]
            mean = decoder.morphable_model.mean[region]
            self.register_buffer("quaternion_forms", quaternion_forms(), persistent=False)
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
        """That of `rotation_from_vertices`."""
        face = vertices.index_select(1, self.face_region) * vertices.new_tensor([1.0, -1.0, 1.0])
        face = face - face.mean(1, keepdim=True)
        return nearest_rotation(face.mT @ self.mean_face, self.quaternion_forms)


def quaternion_forms() -> Float[Tensor, "9 16"]:
    """Row 3 i + j is the symmetric 4 x 4 matrix F with R_ij = q F q, for the rotation R of a quaternion q = (w, x, y,
    z)."""
    forms = torch.zeros(3, 3, 4, 4)
    signs = ((1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))
    for i in range(3):
        forms[i, i] = torch.diag(torch.tensor(signs[i], dtype=torch.float32))
        j, k = (i + 1) % 3, (i + 2) % 3
        for a, b, sign in ((i, j, -1), (j, i, 1)):  # R_ij = 2 (q_i q_j - w q_k), R_ji = 2 (q_i q_j + w q_k)
            forms[a, b, i + 1, j + 1] = forms[a, b, j + 1, i + 1] = 1
            forms[a, b, 0, k + 1] = forms[a, b, k + 1, 0] = sign
    return forms.reshape(9, 16)


def nearest_rotation(
    covariance: Float[Tensor, "batch 3 3"], forms: Float[Tensor, "9 16"]
) -> Float[Tensor, "batch 3 3"]:
    """The rotations R that maximise tr(R^T C). `forms` are `quaternion_forms`.

    The quaternion is the first eigenvector of a 4 x 4 matrix (Davenport; Horn, JOSA A 1987), found by squaring it, as
    ONNX has neither an eigenvalue nor a singular value decomposition.
    """
    power = (covariance.flatten(1) @ forms).unflatten(1, (4, 4))
    norm = power.flatten(1).norm(dim=1)[:, None, None]
    power = power / norm + torch.eye(4, device=power.device)  # no negative eigenvalues
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.flatten(1).norm(dim=1)[:, None, None]  # in the end the quaternion's outer product
    return (power.flatten(1) @ forms.mT).unflatten(1, (3, 3))


def trace(network: FaceNetwork) -> ExportedProgram:
    """The graph of a network for batches of any size, on the CPU and in float32."""
    graph = NetworkGraph(network.cpu().float().eval()).eval()
    crops = torch.zeros(2, 3, network.image_size, network.image_size, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (crops,), dynamic_shapes=({0: Dim("batch")},))


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a program whole, with texts inside that torch.export.load returns as `extra_files`."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of source files
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=dict(metadata))
    write_atomically(path, content.getvalue())
