"""What --help says: the purpose, examples, choices and keys, as the config's comments have them."""

import argparse
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from jointface.command_help import command_help
from jointface.command_line import CONF_DIR, take_lazy_help

KEY = r"(?:trainer|model|data|drawing|callbacks)\.[\w.]+"
COMMANDS = ("train", "prepare", "synthesize", "evaluate", "predict", "export", "workspace")


def shown(command: str, conf_dir: Path = CONF_DIR) -> str:
    """As Hydra shows it."""
    return string.Template(command_help(command, conf_dir)).substitute()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_the_purpose_and_examples(command: str) -> None:
    purpose, blank, *examples = shown(command).splitlines()[:4]
    assert re.fullmatch(r"[A-Z].*\.", purpose)
    assert blank == ""
    assert all(example.startswith(f"    python -m jointface.{command}") for example in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_the_config_is_shown_and_explained(command: str) -> None:
    text = (CONF_DIR / f"{command}.yaml").read_text().split("\nhydra:")[0]
    keys = re.findall(r"^(\w+):(?! *$)", text, re.MULTILINE)
    assert keys
    lines = shown(command).splitlines()
    for key in keys:
        (line,) = (line for line in lines if line.startswith(f"    {key}:"))
        assert "#" in line, f"{key} has no comment"


def test_every_choice_of_a_benchmark_is_shown_with_what_it_is() -> None:
    text = shown("evaluate")
    assert "benchmark=all" in text
    for path in (CONF_DIR / "benchmark").glob("*.yaml"):
        assert re.search(rf"^        {path.stem} +\S", text, re.MULTILINE), path.stem


def test_groups_with_nothing_to_choose_show_their_keys() -> None:
    text = shown("prepare")
    assert re.search(r"^    paths.data_dir: data +# holds celeba/", text, re.MULTILINE)
    assert "${paths.data_dir}/bfm_3ddfa" in text
    assert "paths=default" not in text


def test_the_keys_of_choices_that_help_names_exist() -> None:
    named = [key for line in shown("train").splitlines() if line.startswith("    #") for key in re.findall(KEY, line)]
    assert "trainer.max_steps" in named
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", ["name=x"])
    assert [key for key in named if OmegaConf.select(config, key) is None] == ["data.max_train_samples"]  # null


def test_help_is_made_of_the_comments(tmp_path: Path) -> None:
    (tmp_path / "colour").mkdir()
    (tmp_path / "colour" / "red.yaml").write_text("# @package _global_\n# Like blood. Or wine.\n# Or both.\n")
    (tmp_path / "colour" / "blue.yaml").write_text("# Like the sky,\n# at noon\nkey: 1\n")
    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "large.yaml").write_text("_target_: a\n")
    (tmp_path / "size" / "small.yaml").write_text("_target_: b\n")
    (tmp_path / "paint.yaml").write_text(
        "# Paints.\n#\n#     paint colour=red\n"
        "defaults:\n  - _self_\n  - colour: red    # of the wall\n  - size: small\n"
        "  - override hydra/job_logging: stdout\n\ncoats: 2    # how many\n\nhydra:\n  output_subdir: null\n"
    )
    assert shown("paint", tmp_path).splitlines()[:16] == [
        "Paints.", "", "    paint colour=red", "",
        "Groups, GROUP=CHOICE, with their defaults and choices:", "",
        "    colour=red   # of the wall", "        blue   Like the sky, at noon", "        red    Like blood.",
        "    size=small", "        large, small", "",
        "Keys, KEY=VALUE, with their defaults:", "",
        "    coats: 2    # how many", "",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_shows_it(command: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"jointface.{command}", "--help"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == shown(command).strip()
    assert not list(tmp_path.iterdir())


def test_hydras_options_pass_the_checks_of_newer_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 formats each help text when its option is added."""
    add_argument = argparse.ArgumentParser.add_argument

    def check(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if action.help and "%" in action.help:  # a TypeError if it is no text
            assert parser.prog

    def checked(parser: argparse.ArgumentParser, *words: Any, **options: Any) -> argparse.Action:
        action = add_argument(parser, *words, **options)
        parser._check_help(action)  # type: ignore[attr-defined]
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", checked)
    with pytest.raises(TypeError):
        get_args_parser()
    take_lazy_help()
    assert "--shell-completion" in {word for action in get_args_parser()._actions for word in action.option_strings}
