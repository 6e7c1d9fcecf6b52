"""Trains: `python -m jointface.train experiment=joint_celeba_300wlp scale=small paths.data_dir=DATA`."""

from omegaconf import DictConfig

from jointface.config import entry_point, remove_unused_folder
from jointface.training import train


@entry_point("train")
def main(config: DictConfig) -> dict[str, float]:
    """Trains and tests the model of the config."""
    metrics = train(config)
    if config.dry_run or not config.keep_files:
        remove_unused_folder()
    return metrics


if __name__ == "__main__":
    main()
