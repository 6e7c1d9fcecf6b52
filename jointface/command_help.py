"""The text of `--help`: the head of a command's config, its groups with their choices, its keys with their comments.

Keys are documented only in the files in conf/, from which this text is taken.
"""

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

_GROUP = re.compile(r"  - (?P<group>[\w/]+): (?P<choice>\S+)\s*(?P<comment>#.*)?$")
_MORE = """\
Write lists in brackets without spaces, [a,b], in quotes if the shell needs them. Keys with ??? are required.
All groups and keys with their comments: {conf_dir}
--cfg job prints the config with the given choices and keys, --hydra-help lists Hydra's own options."""


def command_help(config_name: str, conf_dir: Path) -> str:
    """The value of Hydra's `hydra.help.template`, made from the comments in CONF_DIR/CONFIG_NAME.yaml.

    Comments above `defaults:` are the purpose and examples. Groups are listed in `defaults:`; a group without choices
    is shown by its keys. Keys are the lines between `defaults:` and `hydra:`.
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
    return "\n".join(sections).replace("$", "$$")  # Hydra uses string.Template


def _options(group: str, conf_dir: Path) -> dict[str, list[str]]:
    """The lines in the file of each choice, by name."""
    paths = sorted(path for path in (conf_dir / group).glob("*.yaml") if path.stem != "base")  # which others build on
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in paths}


def _choices(group: str, conf_dir: Path) -> list[str]:
    """A line for each choice with the summary in its file; a single line for all if files have no summaries."""
    options = _options(group, conf_dir)
    summaries = {name: _summary(lines) for name, lines in options.items()}
    if len(set(summaries.values())) < max(len(summaries), 2):
        return [", ".join(options)] if len(options) > 1 else []
    width = max(map(len, options))
    return [f"{name:<{width}}   {summary}".rstrip() for name, summary in summaries.items()]


def _summary(lines: Iterable[str]) -> str:
    """The first sentence of the comment at the top of a file."""
    head = takewhile(lambda line: line.startswith("#"), lines)
    comment = " ".join(line.removeprefix("# ") for line in head if not line.startswith("# @"))
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]


def _keys_of(group: str, conf_dir: Path) -> list[str]:
    """The keys of a group that has only plain settings and no choices; empty for other groups."""
    options = list(_options(group, conf_dir).values())
    if len(options) != 1 or any(line.startswith(("_target_", "defaults:", "# @package")) for line in options[0]):
        return []
    return [f"{group}.{line}" for line in options[0] if line and not line.startswith(("#", " "))]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
