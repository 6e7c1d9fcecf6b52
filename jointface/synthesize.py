"""Draws labelled synthetic faces to disk: `python -m jointface.synthesize num_faces=2000 output_dir=out`."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from jointface.command_line import entry_point
from jointface.synthesis.export import export, require_plan
from jointface.synthesis.faces import FaceFactory


@entry_point("synthesize")
def main(config: DictConfig) -> None:
    """Writes the faces of the config."""
    plan = {key: config[key] for key in ("num_faces", "val_fraction", "test_fraction", "extension", "quality")}
    plan |= {"layouts": list(config.layouts), "num_workers": config.num_workers}
    require_plan(**plan)
    output_dir = Path(config.output_dir)
    settings = cast(dict[str, Any], OmegaConf.to_container(config.synthesis, resolve=True))
    export(
        FaceFactory(**settings),
        {key: value for key, value in settings.items() if key != "cache_dir"},
        output_dir,
        **plan,
    )


if __name__ == "__main__":
    main()
