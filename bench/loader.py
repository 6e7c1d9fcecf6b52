"""The joint loader against plain decoding of the same files.

`python -m bench.loader DATA`: CelebA and 300W-LP in DATA through the training loader of `scale=small` with one worker a
source, and cv2.imread of the same images in one process.
"""

import sys

import cv2
from hydra import compose, initialize_config_dir

from bench.timing import medians, seconds
from jointface.command_line import CONF_DIR
from jointface.train import build_data

BATCHES, REPEATS = 40, 3


def main(data: str) -> None:
    """Prints both throughputs and their ratio."""
    overrides = ["experiment=joint_celeba_300wlp", "scale=small", f"paths.data_dir={data}"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=[*overrides, "paths.run_dir=unused", "name=bench"])
    datamodule = build_data(config)
    datamodule.setup("fit")
    datasets = datamodule.datasets["train"]
    sizes = {name: datamodule.sources[name].batch_size for name in datasets}
    paths = [
        str(datasets[name].path(index))
        for name, size in sizes.items()
        for index in range(min(BATCHES * size, len(datasets[name])))
    ]

    def joint() -> float:
        batches = iter(datamodule.train_dataloader())
        next(batches)  # starting the workers is not the loader's speed
        return BATCHES * sum(sizes.values()) / seconds(lambda: [next(batches) for _ in range(BATCHES)])()

    def plain() -> float:
        cv2.setNumThreads(1)
        return len(paths) / seconds(lambda: [cv2.imread(path) for path in paths])()

    speeds = medians({"joint": joint, "plain": plain}, REPEATS)
    print(f"joint loader of scale=small, one worker a source, median of {REPEATS}")
    print(f"  cv2 decoding alone, one process   {speeds['plain']:8.0f} images/s")
    ratio = speeds["joint"] / speeds["plain"]
    print(f"  crops with labels, augmented      {speeds['joint']:8.0f} images/s   {ratio:.2f} of decoding")


if __name__ == "__main__":
    main(sys.argv[1])
