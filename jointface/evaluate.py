"""Judges trained models by published protocols: `python -m jointface.evaluate checkpoint=PATH benchmark=aflw2000`."""

from omegaconf import DictConfig

from jointface.config import entry_point
from jointface.evaluation import evaluate


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    """Runs the benchmarks of the config."""
    evaluate(config)


if __name__ == "__main__":
    main()
