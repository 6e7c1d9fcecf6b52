"""Synthetic faces per second on one core, and on a GPU where there is one: `python -m bench.synthesis`."""

import time

import torch

from jointface.synthesis.faces import FaceFactory

FACES, BATCH, REPEATS = 64, 8, 5
REQUIRED = {"cpu": (128, 120.0), "cuda": (256, 5000.0)}  # size and images/s that were asked for


def main() -> None:
    """Prints images/s of rendering alone, in batches and one by one, and of everything that a sample needs."""
    torch.set_num_threads(1)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        factory = FaceFactory(device=device)
        size, required = REQUIRED[device]
        batch = BATCH if device == "cpu" else FACES
        rates = {
            f"rendering, batches of {batch}": _rate(factory, size, batch, device),
            "rendering, one by one": _rate(factory, size, 1, device),
        }
        start = time.perf_counter()
        faces = [factory.face("train", index) for index in range(FACES)]
        factory.attributes(faces)
        rates["making up people and their attributes"] = FACES / (time.perf_counter() - start)
        for what, rate in rates.items():
            print(f"{device}, {size} x {size}, {what}: {rate:.0f} images/s")
        best = max(rate for what, rate in rates.items() if what.startswith("rendering"))
        print(f"{device}: {best:.0f} images/s, {required:.0f} asked for: {'reached' if best >= required else 'missed'}")


def _rate(factory: FaceFactory, size: int, batch: int, device: str) -> float:
    faces = [factory.face("train", index) for index in range(FACES)]
    cameras = torch.stack([factory.crop_camera(face, size) for face in faces])
    factory.render(faces, cameras, size)  # compiles, and reads every texture once
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for first in range(0, FACES, batch):
            factory.render(faces[first : first + batch], cameras[first : first + batch], size)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return FACES / best


if __name__ == "__main__":
    main()
