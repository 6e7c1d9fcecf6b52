"""A network as one graph of tensor operations, from uint8 crops to everything that is asked of a face."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from jointface.files import write_atomically
from jointface.geometry.morphable_model import MorphableModel
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

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network, self.facts = network, network_facts(network)
        constant = partial(nn.Buffer, persistent=False)
        self.log_alpha = constant(torch.from_numpy(self.facts.alpha).log())
        if (decoder := network.shape_decoder) is not None:
            region = decoder.morphable_model.face_region.nonzero()[:, 0]
            mean = decoder.morphable_model.mean[region]
            if isinstance(decoder, MorphableDecoder):
                self._split_off_centre(decoder.morphable_model)
            self.quaternion_forms = constant(quaternion_forms())
            self.face_region = constant(region)
            self.mean_face = constant((mean - mean.mean(0)) / mean.std())

    def _split_off_centre(self, model: MorphableModel) -> None:
        """Mean and basis of the vertices relative to their centre, and of the centre. The basis also shifts faces."""
        basis, mean = model.basis.double(), model.mean.double()
        moves = torch.eye(3, dtype=torch.float64)[:, None].expand(3, len(mean), 3)
        constant = partial(nn.Buffer, persistent=False)
        self.mean = constant((mean - mean.mean(0)).mT.flatten().float())
        columns = torch.cat([basis - basis.mean(1, keepdim=True), moves], dim=2).flatten(0, 1)
        self.basis = constant(columns.T.float().contiguous())
        self.centre, self.basis_of_centre = constant(mean.mean(0).float()), constant(basis.mean(1).float())
        self.plane = constant(torch.tensor([[1.0], [1.0], [0.0]]))
        self.y_down = constant(torch.tensor([1.0, -1.0, 1.0]))

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
            shape, expression, camera = decoder.outputs(features)
            vertices = self._project(torch.cat([shape, expression], dim=1), camera)
            rotation = camera[:, :, :3] * self.y_down[:, None]
            rotation = rotation / rotation[:, :1].norm(dim=-1, keepdim=True)
        else:
            vertices = decoder.vertices(decoder(features))
            rotation = self._rotation(vertices)
        return vertices, vertices.index_select(1, decoder.morphable_model.landmarks68), rotation

    def _project(
        self, coefficients: Float[Tensor, "batch coefficients"], camera: Float[Tensor, "batch 3 4"]
    ) -> Float[Tensor, "batch vertices 3"]:
        """`MorphableDecoder.vertices` in fewer passes over the vertices: their mean is taken off the model beforehand.

        It does not ask whether a camera mirrors; those of the decoder never do.
        """
        linear = camera[:, :, :3]
        centre = torch.addmm(self.centre, coefficients, self.basis_of_centre.T)
        shift = (linear @ centre[:, :, None] + camera[:, :, 3:]) * self.plane  # z is relative to the mean
        # In model space the shift is three more coefficients; the inverse of a scaled rotation is easy.
        shift = linear.mT @ shift / linear[:, :1].square().sum(2, keepdim=True)
        faces = torch.addmm(self.mean, torch.cat([coefficients, shift[:, :, 0]], dim=1), self.basis)
        return (linear @ faces.unflatten(1, (3, -1))).mT

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
