"""Face geometry on tensors, in the conventions of docs/conventions.md."""

from jointface.geometry.bfm import load_bfm_3ddfa
from jointface.geometry.camera import (
    apply_camera,
    camera_from_pose,
    center_depth,
    crop_camera,
    euler_to_rotation,
    is_mirrored,
    pose_from_camera,
    rotation_6d_to_matrix,
    rotation_to_euler,
)
from jointface.geometry.framing import FaceBox, crop_transform, face_box, similarity, warp_points
from jointface.geometry.morphable_model import MIRROR68, MorphableModel
from jointface.geometry.position_map import PositionMap
from jointface.geometry.regions import FACE, LANDMARKS, NECK, ORGANS, face_regions
