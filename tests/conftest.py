"""What holds in every process that runs tests."""

import atexit
import os
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import _import_hook, install_import_hook

import tests.typecheck

# The shapes in the annotations check themselves while the tests run.
jaxtyping.jaxtyped = tests.typecheck.jaxtyped
install_import_hook("jointface", "tests.typecheck.check")

# The hook has bytecode of its own. Without this it would also compile the three thousand modules of other packages that
# jointface imports, in every process that runs tests.
PACKAGE = f"{Path(find_spec('jointface').origin).parent}{os.sep}"  # type: ignore[union-attr, arg-type]
name_of_checked = _import_hook._optimized_cache_from_source


def name_of_bytecode(checker: str, /, path: str, debug_override: bool | None = None) -> str:
    if path.startswith(PACKAGE):
        return name_of_checked(checker, path, debug_override)
    return cache_from_source(path, debug_override)


_import_hook._optimized_cache_from_source = name_of_bytecode
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side, as do the commands they start


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, but not where `pytest -n` only hands out tests: their imports take long. A process that has
    run its share of the tests ends at once, because freeing every object of the modules takes long, too."""
    if hasattr(config, "workerinput"):
        atexit.register(os._exit, 0)  # before the fixtures are imported, so that it comes after all that they register
    if not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")
