"""The network, its losses, and the LightningModule that trains it."""

from jointface.modules.auxiliary import RecognitionLoss, RingLoss, SwapLoss
from jointface.modules.backbones import PRNetEncoder, TransformersBackbone
from jointface.modules.checkpoint import load_model
from jointface.modules.joint_module import JointFaceModule
from jointface.modules.landmark_uncertainty import LandmarkUncertainty
from jointface.modules.losses import attribute_loss, root_mean_square, shape_loss
from jointface.modules.network import AttributeClassifier, FaceNetwork, build_network
from jointface.modules.schedule import warmup_cosine
from jointface.modules.shape_decoders import MorphableDecoder, PositionMapDecoder, ShapeDecoder
from jointface.modules.teacher import Teacher
from jointface.modules.weighting import (
    DynamicWeightAverage,
    FixedWeights,
    PCGrad,
    TorchJDGradients,
    UncertaintyWeights,
)
