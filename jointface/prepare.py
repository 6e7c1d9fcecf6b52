"""Checks, describes and packs a data set: `python -m jointface.prepare source=celeba paths.data_dir=DATA`."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from jointface.command_line import entry_point
from jointface.datamodules.sample_check import prepare, require_packing
from jointface.errors import ConfigError


@entry_point("prepare")
def main(config: DictConfig) -> None:
    """Prepares the data set of the config."""
    if not config.get("source"):
        raise ConfigError("which data set? add source=celeba, lfwa, 300wlp, aflw2000 or florence")
    if not isinstance(config.pack, bool):
        raise ConfigError(f"pack={config.pack}: expected true or false")
    options = {key: config[key] for key in ("image_size", "margin", "quality", "num_workers")}
    require_packing(**options)
    dataset = instantiate(config.source.dataset, _convert_="all")
    prepare(config.source.packed, dataset, Path(str(config.output_dir)), pack=config.pack, **options)


if __name__ == "__main__":
    main()
