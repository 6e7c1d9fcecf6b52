"""The order of the packages: imports go one way, without circles, and no two files answer the same question."""

import ast
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "jointface"

# From the bottom up; a package imports from its own level and from those below.
LEVELS = [
    {"errors", "settings", "files", "attributes", "geometry"},
    {"viz"},
    {"synthesis", "metrics"},
    {"datamodules", "modules"},
    {"running", "detection"},
    {"callbacks", "evaluation", "inference"},
    {"command_help", "command_line"},
    {"train", "evaluate", "predict", "export", "app", "prepare", "synthesize", "summarize", "workspace"},
]
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
OTHER_OPEN = {"Image", "av", "lmdb", "os"}  # which open other things than text files


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    trees = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imported(tree: ast.Module, names: set[str]) -> set[str]:
    """The package's modules that a module imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & names
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    return found


def test_imports_go_from_the_commands_down_to_the_geometry() -> None:
    trees = modules()
    for name, tree in trees.items():
        if name == "jointface":
            continue
        package = name.split(".")[1]
        for other in imported(tree, set(trees)) - {"jointface"}:
            assert LEVEL[other.split(".")[1]] <= LEVEL[package], f"{name} imports {other}"


def test_no_two_modules_import_each_other() -> None:
    trees = modules()
    packages = {name for name in trees if (ROOT.parent / name.replace(".", "/")).is_dir()}
    graph = {name: imported(tree, set(trees) - packages) for name, tree in trees.items() if name not in packages}
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_geometry_needs_neither_lightning_nor_hydra() -> None:
    for name, tree in modules().items():
        if name.startswith("jointface.geometry"):
            heads = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            heads |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {head.split(".")[0] for head in heads} & {"lightning", "hydra", "omegaconf"}, name


def test_text_files_are_utf8_in_every_locale() -> None:
    for name, tree in modules().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            modes = [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
            text = function in ("read_text", "write_text") or (function == "open" and not any("b" in m for m in modes))
            if text and not (isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in OTHER_OPEN):
                assert "encoding" in {word.arg for word in call.keywords}, f"{name}, line {call.lineno}"


def test_every_file_name_is_there_once() -> None:
    counts = Counter(path.stem for path in ROOT.rglob("*.py") if path.stem != "__init__")
    assert [name for name, count in counts.items() if count > 1] == []
