"""Pictures and meshes of faces: arrays in, images and files out."""
