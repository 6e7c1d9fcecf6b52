"""Draws a clear yes and a clear no of each synthetic attribute: `python -m bench.attribute_examples PICTURE`."""

import sys

import torch
from matplotlib.figure import Figure

from jointface.geometry import pose_from_camera
from jointface.synthesis.faces import FaceFactory, SyntheticFace
from jointface.synthesis.measures import SYNTHETIC

FACES, SIZE, COLUMNS = 1500, 144, 8
HIDE = {"Eyeglasses", "Wearing_Hat"}  # what would hide the attribute


def main(path: str) -> None:
    """Picks the highest and the lowest score among faces that look at the viewer."""
    factory = FaceFactory(supersampling=2)
    faces = [face for index in range(FACES) if _frontal(face := factory.face("train", index))]
    looks = [face.appearance for face in faces]
    scores = factory.scores(faces)
    scores += 1e-3 * torch.rand(scores.shape, generator=torch.Generator().manual_seed(0))  # ties fall anywhere
    bare = torch.tensor([look.hat < 0 and (look.glasses < 0 or not look.sunglasses) for look in looks])
    rows = -(-len(SYNTHETIC) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 1.32 * rows), dpi=100)
    for place, name in enumerate(SYNTHETIC.attributes):
        column = scores[:, place].clone()
        allowed = torch.ones_like(bare) if name in HIDE else bare
        yes = int(torch.where(allowed, column, -torch.inf).argmax())
        no = int(torch.where(bare, column, torch.inf).argmin())
        pair = [faces[yes], faces[no]]
        images = factory.render(pair, torch.stack([factory.crop_camera(face, SIZE) for face in pair]), SIZE)
        axis = figure.add_subplot(rows, COLUMNS, place + 1)
        axis.imshow(torch.cat(list(images), dim=2).movedim(0, -1).numpy())
        axis.set_title(name.replace("_", " "), fontsize=8, pad=2)
        axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, top=0.965, bottom=0.005, wspace=0.04, hspace=0.2)
    figure.savefig(path, pil_kwargs={"quality": 88} if path.endswith(".jpg") else {})
    print(path)


def _frontal(face: SyntheticFace) -> bool:
    linear = face.camera / face.camera[0, :3].norm()
    pitch, yaw, roll = pose_from_camera(linear, 1)[:3].rad2deg().abs().tolist()
    return yaw < 22 and pitch < 14 and roll < 12


if __name__ == "__main__":
    main(sys.argv[1])
