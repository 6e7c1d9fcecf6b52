"""Draws labelled synthetic faces to disk: `python -m jointface.synthesize num_faces=2000 output_dir=out`."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from jointface.config import entry_point
from jointface.synthesis.export import export, require_plan
from jointface.synthesis.faces import FaceFactory


@entry_point("synthesize")
def main(config: DictConfig) -> None:
    """Writes the faces of the config."""
    require_plan(config.num_faces, config.val_fraction, config.test_fraction, list(config.layouts))
    output_dir = Path(config.output_dir)
    settings = cast(dict[str, Any], OmegaConf.to_container(config.synthesis, resolve=True))
    export(
        FaceFactory(**settings),
        {key: value for key, value in settings.items() if key != "cache_dir"},
        output_dir,
        num_faces=config.num_faces,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        layouts=list(config.layouts),
        extension=config.extension,
        quality=config.quality,
        num_workers=config.num_workers,
    )


if __name__ == "__main__":
    main()
