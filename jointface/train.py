"""Trains: `python -m jointface.train experiment=joint_celeba_300wlp scale=small paths.data_dir=DATA`."""

from omegaconf import DictConfig

from jointface.config import entry_point
from jointface.training import train


@entry_point("train")
def main(config: DictConfig) -> None:
    """Trains and tests the model of the config."""
    train(config)


if __name__ == "__main__":
    main()
