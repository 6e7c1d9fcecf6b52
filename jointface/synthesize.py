"""Renders labelled synthetic faces to disk: `python -m jointface.synthesize num_faces=2000 output_dir=out`."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from jointface.command_line import entry_point
from jointface.datamodules.loading import explained_loader_failures
from jointface.settings import as_list
from jointface.synthesis.face_files import Plan, export
from jointface.synthesis.faces import FaceFactory


@entry_point("synthesize")
@explained_loader_failures()
def main(config: DictConfig) -> None:
    """Writes the faces described by the config."""
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    values["layouts"] = as_list(values["layouts"])
    plan = Plan(**{field.name: values[field.name] for field in fields(Plan)})
    settings = values["synthesis"]
    # The cache folder of the built head does not affect the faces.
    described = {key: value for key, value in settings.items() if key != "cache_dir"}
    export(FaceFactory(**settings), described, Path(values["output_dir"]), plan)


if __name__ == "__main__":
    main()
