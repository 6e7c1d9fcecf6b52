"""Lays out a dashboard's panels on W&B: `python -m jointface.workspace run=RUN_FOLDER entity=NAME`."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from jointface.callbacks.dashboard_logger import logged_in
from jointface.callbacks.dashboard_panels import read_sections, wandb_workspace
from jointface.callbacks.recorded_run import read_run
from jointface.command_line import entry_point
from jointface.errors import ConfigError, JointFaceError


@entry_point("workspace")
def main(config: DictConfig) -> None:
    """Saves the sections of the config as a new view of a project."""
    sections = read_sections(OmegaConf.to_container(config.sections, resolve=True))  # type: ignore[arg-type]
    run = read_run(Path(config.run))
    if not logged_in():
        raise ConfigError("nobody is logged in to W&B: run `wandb login`")
    import wandb

    try:
        entity = str(config.entity or wandb.Api().default_entity)
        wandb_workspace(entity, config.project, config.name, sections, run.keys()).save_as_new_view()  # says where
    except JointFaceError:
        raise
    except Exception as error:  # of the network, the account or the server
        raise ConfigError(f"W&B did not take the workspace: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
