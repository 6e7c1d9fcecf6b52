"""Face data sets, one file each, and the LightningDataModule that trains on several of them jointly."""

from jointface.datamodules.aflw2000 import AFLW2000
from jointface.datamodules.augmentation import Augmentation
from jointface.datamodules.celeba import CelebA
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.fairface import FairFace
from jointface.datamodules.fitted_celeba import FittedCelebA
from jointface.datamodules.florence import Florence
from jointface.datamodules.joint import JointDataModule, Source
from jointface.datamodules.landmark_photos import LandmarkPhotos
from jointface.datamodules.landmark_table import LandmarkTable
from jointface.datamodules.lfwa import LFWA
from jointface.datamodules.now import NoW
from jointface.datamodules.packed import PackedFaces
from jointface.datamodules.realy import REALY
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.datamodules.turning import FaceTurning
from jointface.datamodules.w300lp import W300LP
from jointface.datamodules.wflw import WFLW

__all__ = [
    "AFLW2000",
    "LFWA",
    "REALY",
    "W300LP",
    "WFLW",
    "Augmentation",
    "CelebA",
    "CropTransform",
    "FaceDataset",
    "FaceSample",
    "FaceTurning",
    "FairFace",
    "FittedCelebA",
    "Florence",
    "JointDataModule",
    "LandmarkPhotos",
    "LandmarkTable",
    "NoW",
    "PackedFaces",
    "Source",
    "SyntheticFaces",
]
