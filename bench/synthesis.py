"""Synthetic faces per second on one core, and on a GPU where there is one: `python -m bench.synthesis`."""

import time
from collections.abc import Callable
from functools import partial

import torch

from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.scenes import Scenes

FACES, BATCH, REPEATS = 64, 8, 5
CPU_SIZE, CUDA_SIZE = 128, 256


def main() -> None:
    """Prints images/s of rendering, in batches and one by one, and faces/s of sampling."""
    torch.set_num_threads(1)
    on_cpu()
    if torch.cuda.is_available():
        on_cuda()


def on_cpu() -> None:
    """As a loader's process renders."""
    factory, with_shadows = FaceFactory(), FaceFactory(shadows=True)
    faces = [factory.face("train", index) for index in range(FACES)]
    cameras = torch.stack([factory.crop_camera(face, CPU_SIZE) for face in faces])

    def draw(first: int, end: int, by: FaceFactory = factory) -> None:
        by.render(faces[first:end], cameras[first:end], CPU_SIZE)

    def sample(first: int, end: int) -> None:
        factory.attributes([factory.face("train", index) for index in range(first, end)])

    rates = {
        f"rendering, batches of {BATCH}": _rate(draw, BATCH),
        f"rendering, batches of {BATCH}, with shadows": _rate(partial(draw, by=with_shadows), BATCH),
        "rendering, one by one": _rate(draw, 1),
        "sampling people and measuring their attributes": _rate(sample, FACES),
    }
    _print(f"cpu, {CPU_SIZE} x {CPU_SIZE}", rates)


def on_cuda() -> None:
    """As a training renders, from batches that loaders made."""
    size, rates = CUDA_SIZE, {}
    for compiled in (False, True):
        factory = FaceFactory(device="cuda", compiled=compiled)
        faces = [factory.face("train", index) for index in range(FACES)]
        scenes = [factory.scene(face, factory.crop_camera(face, size), size) for face in faces]
        batch = Scenes.joined([Scenes.of(scenes)] * 2).pin_memory()

        def draw(first: int, end: int, factory: FaceFactory = factory, batch: Scenes = batch) -> None:
            factory.renderer.render(batch.part(first, end), size)

        how = ", compiled" if compiled else ""
        rates |= {f"rendering, batches of {count}{how}": _rate(draw, count) for count in (8, 64)}
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(REPEATS):
            factory.renderer.render(batch, size)
        torch.cuda.synchronize()
        rates[f"rendering, batches of {len(batch)}{how}"] = REPEATS * len(batch) / (time.perf_counter() - start)
        print(f"{len(batch)} pictures at once{how}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    _print(f"cuda, {size} x {size}", rates)


def _rate(work: Callable[[int, int], None], batch: int) -> float:
    """Faces per second of work on rows of a batch, the best of several times."""
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first one compiles and loads every texture
        start = time.perf_counter()
        for first in range(0, FACES, batch):
            work(first, first + batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return FACES / best


def _print(where: str, rates: dict[str, float]) -> None:
    for what, rate in rates.items():
        print(f"{where}, {what}: {rate:.0f} images/s")


if __name__ == "__main__":
    main()
