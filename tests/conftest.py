"""What holds in every process that runs tests."""

import os

import jaxtyping
import pytest
from jaxtyping import install_import_hook

import tests.typecheck

# The shapes in the annotations check themselves while the tests run.
jaxtyping.jaxtyped = tests.typecheck.jaxtyped
install_import_hook("jointface", "tests.typecheck.check")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side, as do the commands they start


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, but not where `pytest -n` only hands out tests: their imports take long."""
    if not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")
