"""What `--help` shows: the head of a command's config, its groups with their choices, its keys with their comments.

The files in conf/ are where keys are documented; this shows them and says nothing twice.
"""

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

_GROUP = re.compile(r"  - (?P<group>[\w/]+): (?P<choice>\S+)\s*(?P<comment>#.*)?$")
_MORE = """\
A list stands in brackets without spaces, [a,b], in quotes where the shell asks for them. ??? must be given.
All groups and keys with their comments: {conf_dir}
--cfg job prints the config with the choices and keys given, --hydra-help what else Hydra takes."""


def command_help(config_name: str, conf_dir: Path) -> str:
    """A value for Hydra's `hydra.help.template`, of the comments in CONF_DIR/CONFIG_NAME.yaml.

    Comments above `defaults:` are the purpose and examples. Groups are those of `defaults:`; of one with nothing to
    choose the keys are shown. Keys are the lines from there to `hydra:`.
    """
    lines = (conf_dir / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    start, end = lines.index("defaults:"), lines.index("hydra:")
    purpose = [line.removeprefix("#").removeprefix(" ") for line in lines[:start]]
    keys = [line for line in lines[start + 1 : end] if line and not line.startswith("  - ")]
    groups: list[str] = []
    for match in filter(None, map(_GROUP.match, lines[start:end])):
        if of_group := _keys_of(match["group"], conf_dir):
            keys += of_group
        else:
            groups.append(f"{match['group']}={match['choice']}   {match['comment'] or ''}".rstrip())
            groups += _indented(_choices(match["group"], conf_dir))
    sections = [*purpose, ""]
    if groups:
        sections += ["Groups, GROUP=CHOICE, with their defaults and choices:", "", *_indented(groups), ""]
    sections += ["Keys, KEY=VALUE, with their defaults:", "", *_indented(keys), "", _MORE.format(conf_dir=conf_dir)]
    return "\n".join(sections).replace("$", "$$")  # for string.Template, which Hydra fills it with


def _options(group: str, conf_dir: Path) -> dict[str, list[str]]:
    """The lines of each choice's file, by its name."""
    paths = sorted((conf_dir / group).glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in paths}


def _choices(group: str, conf_dir: Path) -> list[str]:
    """A line for each choice with what its file says it is; one line for all where the files do not."""
    options = _options(group, conf_dir)
    summaries = {name: _summary(lines) for name, lines in options.items()}
    if len(set(summaries.values())) < max(len(summaries), 2):
        return [", ".join(options)] if len(options) > 1 else []
    width = max(map(len, options))
    return [f"{name:<{width}}   {summary}".rstrip() for name, summary in summaries.items()]


def _summary(lines: Iterable[str]) -> str:
    """The first sentence of the comment that a file begins with."""
    head = takewhile(lambda line: line.startswith("#"), lines)
    comment = " ".join(line.removeprefix("# ") for line in head if not line.startswith("# @"))
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]


def _keys_of(group: str, conf_dir: Path) -> list[str]:
    """The keys of a group of plain settings with nothing to choose; none of another one."""
    options = list(_options(group, conf_dir).values())
    if len(options) != 1 or any(line.startswith(("_target_", "defaults:", "# @package")) for line in options[0]):
        return []
    return [f"{group}.{line}" for line in options[0] if line and not line.startswith(("#", " "))]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
