"""The joint loader against plain decoding of the same files.

`python -m bench.loader DATA`: CelebA and 300W-LP in DATA through the training loader of `scale=small` with one worker a
source, and cv2.imread of the same images in one process.
"""

import statistics
import sys
import time

import cv2
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from jointface.command_line import CONF_DIR
from jointface.datamodules import JointDataModule

BATCHES, REPEATS = 40, 3


def main(data: str) -> None:
    """Prints both throughputs and their ratio."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose(
            "train",
            overrides=[
                "experiment=joint_celeba_300wlp",
                "scale=small",
                f"paths.data_dir={data}",
                "paths.run_dir=unused",
                "name=bench",
            ],
        )
    datamodule: JointDataModule = instantiate(config.data)
    datamodule.setup("fit")
    sizes = {name: source.batch_size for name, source in datamodule.sources.items() if "train" in source.splits}
    paths = [
        str(datamodule.datasets["train"][name].path(index))
        for name, size in sizes.items()
        for index in range(min(BATCHES * size, len(datamodule.datasets["train"][name])))
    ]

    def joint() -> float:
        batches = iter(datamodule.train_dataloader())
        next(batches)  # starting the workers is not the loader's speed
        start = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        return BATCHES * sum(sizes.values()) / (time.perf_counter() - start)

    def plain() -> float:
        cv2.setNumThreads(1)
        start = time.perf_counter()
        for path in paths:
            cv2.imread(path)
        return len(paths) / (time.perf_counter() - start)

    speeds: dict[str, list[float]] = {"joint": [], "plain": []}
    for _ in range(REPEATS):  # in turn, since the machine's speed drifts
        speeds["joint"].append(joint())
        speeds["plain"].append(plain())
    joint_speed, plain_speed = (statistics.median(speeds[name]) for name in ("joint", "plain"))
    print(f"joint loader of scale=small, one worker a source, median of {REPEATS}")
    print(f"  cv2 decoding alone, one process   {plain_speed:8.0f} images/s")
    print(
        f"  crops with labels, augmented      {joint_speed:8.0f} images/s   {joint_speed / plain_speed:.2f} of decoding"
    )


if __name__ == "__main__":
    main(sys.argv[1])
