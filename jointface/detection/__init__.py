"""Finding faces in photos: the package's own finder and its training, OpenCV's YuNet, or boxes that are known."""
