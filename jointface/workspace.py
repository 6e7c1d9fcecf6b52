"""Lays out a dashboard's panels on W&B: `python -m jointface.workspace run=RUN_FOLDER entity=NAME`."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jointface.command_line import entry_point
from jointface.errors import ConfigError, DataError, JointFaceError

STEP = "trainer/global_step"
KINDS = ("lines", "media", "table", "curves", "histogram")


def build_workspace(entity: str, project: str, name: str, sections: Mapping[str, Any], logged: Iterable[str]) -> Any:
    """Builds a `wandb_workspaces.workspaces.Workspace` without saving it. Panels without a logged key and sections
    without panels are left out.

    Args:
        sections: by heading, panels {title, KIND: regular expression for whole keys}; None leaves a section out.

    Raises:
        ConfigError: a panel is malformed, or the package is not installed.
    """
    kinds = {heading: [_read_panel(panel) for panel in panels] for heading, panels in sections.items() if panels}
    try:
        from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings
    except ImportError as error:
        raise ConfigError("a workspace needs the package wandb-workspaces: pip install 'jointface[wandb]'") from error
    shown = {
        heading: [view for panel in panels for view in _views(*panel, logged)] for heading, panels in kinds.items()
    }
    return Workspace(
        entity=entity, project=project, name=name, settings=WorkspaceSettings(x_axis=STEP),
        sections=[Section(name=heading, panels=views, is_open=True) for heading, views in shown.items() if views],
    )  # fmt: skip


def _read_panel(panel: Mapping[str, str]) -> tuple[str, str, str]:
    """The kind, title and pattern of a panel."""
    kinds = panel.keys() - {"title"}
    if len(kinds) != 1 or not kinds <= set(KINDS):
        raise ConfigError(f"panel {dict(panel)}: expected a title and one of {', '.join(KINDS)}")
    (kind,) = kinds
    try:
        re.compile(panel[kind])
    except re.error as error:
        raise ConfigError(f"panel {dict(panel)}: {panel[kind]!r} is not a regular expression: {error}") from error
    return kind, panel.get("title", panel[kind]), panel[kind]


def _views(kind: str, title: str, pattern: str, logged: Iterable[str]) -> list[Any]:
    """W&B's panels for the logged keys: a single one for lines, for other kinds one for each key."""
    from wandb_workspaces.reports import v2 as wr

    from jointface.callbacks.dashboard import CURVES, CURVES_CHART  # slow to import

    keys = sorted(key for key in logged if re.fullmatch(pattern, key))
    if kind == "lines":
        return [wr.LinePlot(title=title, x=STEP, metric_regex=f"^{pattern}$")] if keys else []
    make = {
        "histogram": lambda key: wr.LinePlot(title=f"{title}: {key}", x=STEP, y=[key]),
        "media": lambda key: wr.MediaBrowser(title=f"{title}: {key}", media_keys=[key]),
        "table": lambda key: wr.WeavePanelSummaryTable(table_name=key),
        "curves": lambda key: wr.CustomChart(
            query={"summaryTable": {"tableKey": key}}, chart_name=CURVES_CHART, chart_fields=CURVES,
            chart_strings={"title": f"{title}: {key.removesuffix('_table')}"},
        ),
    }  # fmt: skip
    return [make[kind](key) for key in keys]


def recorded_keys(run_dir: Path) -> list[str]:
    """The keys in W&B's last recording in a run's folder, uploaded or not.

    Raises:
        DataError: there is none, or W&B cannot read it.
    """
    from jointface.running.wandb_logger import last_recording  # slow to import

    recording = last_recording(run_dir)
    if recording is None:
        raise DataError(f"no W&B recording in {run_dir.absolute()}/wandb: train with logger=wandb")
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(recording)]
    result = subprocess.run(reader, capture_output=True, text=True, check=False)
    if result.returncode:
        raise DataError(f"W&B cannot read {recording}: {' '.join(result.stderr.split())}")
    return list(json.loads(result.stdout)["summary"])


@entry_point("workspace")
def main(config: DictConfig) -> None:
    """Saves the sections in the config as a new view of a project."""

    sections: Any = OmegaConf.to_container(config.sections, resolve=True)
    keys = recorded_keys(Path(config.run))
    import wandb

    try:
        if not wandb.login(prompt=False, verify=False):
            raise ConfigError("nobody is logged in to W&B: run `wandb login`")
        entity = str(config.entity or wandb.Api().default_entity)
        build_workspace(entity, config.project, config.name, sections, keys).save_as_new_view()  # prints where it is
    except JointFaceError:
        raise
    except Exception as error:  # from the network, the account or the server
        raise ConfigError(f"W&B did not accept the workspace: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
