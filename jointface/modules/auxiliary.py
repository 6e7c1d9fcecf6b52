"""Auxiliary losses on photos of known people: what else could teach shape, beside attributes.

Each compares identity coefficients of photos of one person. They follow the papers that Weng et al., ICPR 2020, compare
joint learning with; docs/method.md has the formulas.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.camera import is_mirrored
from jointface.modules.coefficient_prior import RunningMoments
from jointface.modules.linear_shape_loss import LinearShapeLoss
from jointface.modules.shape_decoders import MorphableDecoder, ShapeDecoder

Loss = Float[Tensor, ""]
People = Int[Tensor, "batch"]
Outputs = tuple[Tensor, Tensor, Tensor]  # identity (B, Ks), expression (B, Ke), camera (B, 3, 4)
Space = Literal["coefficients", "vertices"]


class AuxiliaryLoss(nn.Module, ABC):
    """A loss on the faces that are predicted for photos of known people.

    Args:
        decoder: predicts the faces; its outputs must be coefficients of a morphable model.
        people: the numbers of all people in the training, ascending.

    Raises:
        ConfigError: the decoder predicts no coefficients, or nobody is known.
    """

    def __init__(self, decoder: ShapeDecoder | None, people: Int[Tensor, "people"]) -> None:
        super().__init__()
        if not isinstance(decoder, MorphableDecoder):
            raise ConfigError("model/auxiliary needs model/shape_decoder=morphable, which predicts identity")
        if not len(people):
            raise ConfigError("model/auxiliary needs a source whose people are known: set its photos_per_person")

    def observe(self, shape_coefficients: Float[Tensor, "samples Ks"]) -> None:
        """Looks at the true identity coefficients of a training batch."""

    @abstractmethod
    def forward(self, outputs: Outputs, people: People, labels: Mapping[str, Tensor]) -> Loss:
        """The loss of a batch.

        Args:
            outputs: of the decoder.
            people: whom each photo shows.
            labels: of the data contract, for all photos of the batch; without coefficients if one has none.
        """


class StandardIdentity(RunningMoments):
    """Identity coefficients in units of their standard deviation over the labelled faces that were seen so far.

    Here each has unit variance. In the space "vertices", the squared distance of two faces is proportional to the mean
    squared distance of their vertices, and the mean variance is 1.
    """

    root: Tensor | None  # a square root of the basis' Gram matrix: distances after it are those of the vertices

    def __init__(self, decoder: MorphableDecoder, space: Space = "coefficients") -> None:
        model = decoder.morphable_model
        super().__init__(model.num_shape)
        if space not in get_args(Space):
            raise ConfigError(f"model.auxiliary.space={space} is unknown; choose from {', '.join(get_args(Space))}")
        root = None
        if space == "vertices":
            basis = model.basis[..., : model.num_shape].flatten(0, 1).double()
            values, vectors = torch.linalg.eigh(basis.T @ basis)
            root = (vectors * values.clamp(min=0).sqrt()).float()
        self.register_buffer("root", root, persistent=False)

    def forward(self, coefficients: Float[Tensor, "batch Ks"]) -> Float[Tensor, "batch numbers"]:
        if self.root is None:
            return coefficients * self.inverse_deviation()
        mean_variance = (self.root.square().sum(1) * self.variance()).mean()
        return coefficients @ self.root / mean_variance.sqrt()


class RingLoss(AuxiliaryLoss):
    """RingNet's shape consistency (Sanyal et al., CVPR 2019): a person's photos are closer to each other than to a
    photo of somebody else, by a margin.

    L = 1/(n R) sum over n rings of sum_{j,k < R} max(0, ||b_j - b_k||^2 - ||b_j - b_R||^2 + eta). A ring is the R - 1
    photos of a person in the batch and one photo of the next person. b are identity coefficients in units of their
    standard deviation (`StandardIdentity`), as FLAME's are in the paper.

    Args:
        margin: eta.
        space: where distances are measured.
    """

    def __init__(
        self,
        decoder: ShapeDecoder | None,
        people: Int[Tensor, "people"],
        margin: float = 0.5,
        space: Space = "coefficients",
    ) -> None:
        super().__init__(decoder, people)
        assert isinstance(decoder, MorphableDecoder)
        if not margin >= 0:
            raise ConfigError(f"model.auxiliary.margin={margin}: must be at least 0")
        self.margin = margin
        self.standard = StandardIdentity(decoder, space)

    def observe(self, shape_coefficients: Float[Tensor, "samples Ks"]) -> None:
        self.standard.observe(shape_coefficients)

    def forward(self, outputs: Outputs, people: People, labels: Mapping[str, Tensor]) -> Loss:
        return self.rings(self.standard(outputs[0]), people)

    def rings(self, b: Float[Tensor, "batch numbers"], people: People) -> Loss:
        """The loss of the rings in a batch; 0 if it shows one person alone."""
        _, ring, counts = people.unique(return_inverse=True, return_counts=True)
        if len(counts) == 1:
            return b.sum() * 0
        first = (ring[None] == torch.arange(len(counts), device=ring.device)[:, None]).int().argmax(1)
        other = b[first.roll(-1)[ring]]  # b_R of each photo's ring
        distance = (b[:, None] - b[None]).square().sum(2)
        hinge = (distance - (b - other).square().sum(1)[:, None] + self.margin).clamp(min=0)
        size = counts[ring] + 1.0
        return (torch.where(ring[:, None] == ring, hinge, 0.0).sum(1) / size).sum() / len(counts)


class RecognitionLoss(AuxiliaryLoss):
    """Face recognition by shape (Liu et al., CVPR 2018): the identity part of a face tells who it is.

    L = -log softmax_y(W b + c), with y the person and b the identity coefficients in units of their standard deviation
    (`StandardIdentity`). The rest of the face, here expression and pose, is left alone.
    """

    def __init__(self, decoder: ShapeDecoder | None, people: Int[Tensor, "people"]) -> None:
        super().__init__(decoder, people)
        assert isinstance(decoder, MorphableDecoder)
        self.standard = StandardIdentity(decoder)
        self.people = nn.Buffer(people, persistent=False)
        self.classifier = nn.Linear(decoder.morphable_model.num_shape, len(people))

    def observe(self, shape_coefficients: Float[Tensor, "samples Ks"]) -> None:
        self.standard.observe(shape_coefficients)

    def forward(self, outputs: Outputs, people: People, labels: Mapping[str, Tensor]) -> Loss:
        logits = self.classifier(self.standard(outputs[0]))
        return nn.functional.cross_entropy(logits, torch.searchsorted(self.people, people))


class SwapLoss(AuxiliaryLoss):
    """DECA's shape consistency (Feng et al., SIGGRAPH 2021): the identity that is predicted for another photo of the
    same person must explain this photo as well.

    L = (1/N) sum_l W_l ||S_l(b_j, e_i, camera_i) - S^_l(i)||^2 with identity b_j of photo j, and expression and camera
    of photo i, all predicted. This is L_shape where DECA has its photometric and landmark losses. It covers the photos
    that have a 3D label and another photo in the batch that shows the same person and is mirrored alike.
    """

    def __init__(self, decoder: ShapeDecoder | None, people: Int[Tensor, "people"]) -> None:
        super().__init__(decoder, people)
        assert isinstance(decoder, MorphableDecoder)
        self.shape_loss = LinearShapeLoss(decoder.morphable_model, decoder.weights, decoder.image_size)

    def forward(self, outputs: Outputs, people: People, labels: Mapping[str, Tensor]) -> Loss:
        if "camera" not in labels:
            return outputs[0].sum() * 0
        mirrored = is_mirrored(labels["camera"])
        alike = (people[:, None] == people) & (mirrored[:, None] == mirrored)
        partner, found = next_of_same(alike)
        identity, expression, camera = outputs
        true = labels["shape_coefficients"], labels["expression_coefficients"], labels["camera"]
        swapped = self.shape_loss((identity[partner], expression, camera), true)
        return torch.where(found, swapped, 0.0).sum() / found.sum().clamp(min=1)


def next_of_same(alike: Bool[Tensor, "batch batch"]) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """For each sample the next one that is alike, going round, and whether there is another one at all."""
    place = torch.arange(len(alike), device=alike.device)
    steps = (place[None] - place[:, None] - 1) % len(place)  # 0 for the next sample, the most for the sample itself
    nearest = torch.where(alike, steps, len(place)).argmin(1)
    return nearest, nearest != place
