"""Photos in, faces out: the reader of photos, what it returns, and the files that leave the package."""

from jointface.inference.face import Face, Pose
from jointface.inference.photos import Photo, open_photo
from jointface.inference.reader import FaceReader
