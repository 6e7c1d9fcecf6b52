"""Errors that a user can fix, reported in one line."""

import re
import shlex
from collections.abc import Callable
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from jointface.errors import JointFaceError

# Raised on purpose because of mistakes in the config or the data.
EXPECTED_ERRORS: tuple[type[Exception], ...] = (JointFaceError, HydraException, OmegaConfBaseException)

_IN_PLAIN_WORDS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"Could not override '([^']*)'\.": r"no such key \1: --cfg job shows all keys, +\1=VALUE adds one",
    r"Error parsing override '([^']*)' missing EQUAL .*": r"\1: write KEY=VALUE or GROUP=CHOICE, --help lists them",
    r"In '[^']*': Could not find '(.+)/([^/']+)' Available options in '[^']*': (.*)": lambda found: (
        f"{found[1]}={found[2]} is unknown; choose from "
        + ", ".join(choice for choice in found[3].split() if choice != "base")  # which others build on
    ),
}

# Lines of Hydra's messages that say nothing about the mistake.
_NOISE = ("full_key:", "object_type=", "reference_type=", "To append to your config", "Config search path", "provider=")


def override_of(key: str, value: str) -> str:
    """KEY=VALUE as Hydra reads it back: the value is in quotes where its grammar needs them."""
    plain, parser = f"{key}={value}", OverridesParser.create()
    try:
        if parser.parse_override(plain).value() == value:
            return plain
    except HydraException:
        pass
    return f"{key}={QuotedString(value, Quote.double).with_quotes()}"


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without the lines that Hydra and OmegaConf add."""
    # Hydra wraps errors that are raised while it builds an object.
    while isinstance(error.__cause__, JointFaceError) and not isinstance(error, JointFaceError):
        error = error.__cause__
    if isinstance(error, OverrideParseException) and "=" in error.override:
        key, _, value = error.override.partition("=")
        word = override_of(key, value)
        with suppress(HydraException):  # if the key is the mistake
            OverridesParser.create().parse_override(word)
            return f"error: {error.override}: put the value in quotes, {shlex.quote(word)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(line for line in lines if not line.startswith(_NOISE))
    for pattern, plain in _IN_PLAIN_WORDS.items():
        text = re.sub(pattern, plain, text)
    return f"error: {text}"
