"""The panels of a dashboard: which keys they show, in which sections, and the same as a view of W&B's."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jointface.callbacks.dashboard_logger import STEP
from jointface.callbacks.dashboard_media import CURVES, CURVES_CHART
from jointface.errors import ConfigError

KINDS = ("lines", "media", "table", "curves", "histogram")


@dataclass(frozen=True)
class Panel:
    """kind: one of KINDS. pattern: a regular expression for whole keys."""

    title: str
    kind: str
    pattern: str

    def keys(self, logged: Iterable[str]) -> list[str]:
        """Those of the logged keys that it shows, sorted."""
        return sorted(key for key in logged if re.fullmatch(self.pattern, key))


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: tuple[Panel, ...]


def read_sections(sections: Mapping[str, Sequence[Mapping[str, str]] | None]) -> list[Section]:
    """The sections of a config: panels by heading, None for a section that is left out.

    Raises:
        ConfigError: a panel is of no known kind, or its pattern is no regular expression.
    """
    return [Section(name, tuple(_read_panel(panel) for panel in panels)) for name, panels in sections.items() if panels]


def _read_panel(panel: Mapping[str, str]) -> Panel:
    kinds = panel.keys() - {"title"}
    if len(kinds) != 1 or not kinds <= set(KINDS):
        raise ConfigError(f"panel {dict(panel)}: expected a title and one of {', '.join(KINDS)}")
    (kind,) = kinds
    try:
        re.compile(panel[kind])
    except re.error as error:
        raise ConfigError(f"panel {dict(panel)}: {panel[kind]!r} is no regular expression: {error}") from error
    return Panel(panel.get("title", panel[kind]), kind, panel[kind])


def wandb_workspace(entity: str, project: str, name: str, sections: Sequence[Section], logged: Iterable[str]) -> Any:
    """A `wandb_workspaces.workspaces.Workspace` of the sections, not yet saved. Panels that show none of the logged
    keys are left out, and sections without panels.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from wandb_workspaces.workspaces import Section as View
        from wandb_workspaces.workspaces import Workspace, WorkspaceSettings
    except ImportError as error:
        raise ConfigError("a workspace needs the package wandb-workspaces: pip install 'jointface[wandb]'") from error
    keys = list(logged)
    views = [View(name=part.name, panels=_panels(part, keys), is_open=True) for part in sections]
    return Workspace(
        entity=entity, project=project, name=name, sections=[view for view in views if view.panels],
        settings=WorkspaceSettings(x_axis=STEP),
    )  # fmt: skip


def _panels(section: Section, logged: Sequence[str]) -> list[Any]:
    return [view for panel in section.panels for view in _views(panel, panel.keys(logged))]


def _views(panel: Panel, keys: Sequence[str]) -> list[Any]:
    from wandb_workspaces.reports import v2 as wr

    match panel.kind:
        case "lines" if keys:
            return [wr.LinePlot(title=panel.title, x=STEP, metric_regex=f"^{panel.pattern}$")]
        case "histogram":
            return [wr.LinePlot(title=f"{panel.title}: {key}", x=STEP, y=[key]) for key in keys]
        case "media":
            return [wr.MediaBrowser(title=f"{panel.title}: {key}", media_keys=[key]) for key in keys]
        case "table":
            return [wr.WeavePanelSummaryTable(table_name=key) for key in keys]
        case "curves":
            return [
                wr.CustomChart(
                    query={"summaryTable": {"tableKey": key}}, chart_name=CURVES_CHART, chart_fields=CURVES,
                    chart_strings={"title": f"{panel.title}: {key.removesuffix('_table')}"},
                )
                for key in keys
            ]  # fmt: skip
    return []
