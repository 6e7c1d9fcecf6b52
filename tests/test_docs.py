"""README.md and docs/: lines fit, links lead somewhere, commands can be composed, and the map of the code is true."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from jointface.command_line import without_group

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
CHANGES = "CHANGELOG.md"  # names what is gone, too
GROUPS = "experiment|benchmark|sweep|source|scale|debug|data|drawing|trainer|logger"
OWN = "my_faces"  # of docs/adding_a_data_set.md, which has a test of its own
PLACEHOLDERS = {"NAME", "FILE", "OVERRIDES", "null", OWN}


@pytest.fixture(params=sorted(PAGES))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    return PAGES[request.param]


def test_prose_and_commands_fit_in_120_columns(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_configs_fit_in_120_columns() -> None:
    lines = [line for path in (ROOT / "conf").rglob("*.yaml") for line in path.read_text().splitlines()]
    assert [line for line in lines if len(line) > 120] == []


def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s#]*)#?([^)\s]*)\)", page.read_text())
    targets = [((page.parent / path).resolve() if path else page, heading) for path, heading in links]
    dead = [f"{path}#{name}" for path, name in targets if not path.exists() or (name and name not in _headings(path))]
    assert dead == []


def _headings(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_named_modules_and_choices_exist(page: Path) -> None:
    if page.name == CHANGES:
        return
    text = page.read_text()
    files = [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m ((?:jointface|bench)\.\w+)", text)]
    for group, values in re.findall(rf"(?<![\w./@-])({GROUPS})=([\w,|/]+)", text):
        files += [f"conf/{group}/{name}.yaml" for name in re.findall(r"[\w/]+", values) if name not in PLACEHOLDERS]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_commands_have_keys_and_groups_that_exist() -> None:
    """Composes the configs of all `python -m jointface.NAME` in code blocks; of a sweep that of its first job.

    Commands that choose alike share a config, which gets the keys of all of them.
    """
    configs: dict[tuple[str, ...], dict[str, str]] = {}
    for page in PAGES.values():
        code = page.read_text().replace("\\\n", " ") if page.name != CHANGES else ""
        for name, arguments in re.findall(r"^ {4}[^#\n]*-m jointface\.(\w+)(.*)$", code, re.MULTILINE):
            words = [word for word in shlex.split(arguments, comments=True) if re.match(r"[~+]|[\w/@.]+=", word)]
            if (ROOT / "conf" / f"{name}.yaml").exists() and OWN not in arguments:
                overrides = {word.split("=")[0]: without_group(_first_job(word)) for word in words}
                chosen = sorted(word for key, word in overrides.items() if _is_group(key))
                configs.setdefault((name, *chosen), {}).update(overrides)
    faults = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for (name, *_), overrides in configs.items():
            try:
                compose(name, overrides=[*overrides.values()])
            except HydraException as fault:
                faults.append(f"jointface.{name} {' '.join(overrides.values())}: {fault}")
    assert len(configs) > 10
    assert faults == []


def _is_group(key: str) -> bool:
    """Whether an override chooses a file, or leaves something out."""
    return key.startswith("~") or re.search("[/@]", key) is not None or (ROOT / "conf" / key).is_dir()


def _first_job(override: str) -> str:
    key = override.split("=")[0]
    if "interval(" in override:
        return f"{key}=1"
    parsed = OverridesParser.create().parse_override(override)
    return f"{key}={next(parsed.sweep_string_iterator())}" if parsed.is_sweep_override() else override


def test_the_map_names_every_folder_and_nothing_that_is_gone() -> None:
    tree = (ROOT / "README.md").read_text().split("### Where things are")[1].split("\n#")[0]
    named: list[Path] = []
    for indent, names in re.findall(r"^ {4}( *)((?:[\w.]+(?:/|\.py) *)+)", tree, re.MULTILINE):
        top = next((path for path in reversed(named) if path.parent == ROOT), ROOT)
        named += [(top if indent else ROOT) / name for name in names.split()]
    assert [path for path in named if not path.exists()] == []
    assert len(named) == len(set(named))
    shown = ("jointface", "conf", "docs", "tests", "bench")
    files = [path for top in shown for path in (ROOT / top).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    folders = {ROOT / Path(*path.relative_to(ROOT).parts[:2]) for path in files}
    assert {path for path in folders if path.is_dir()} - set(named) == set()
