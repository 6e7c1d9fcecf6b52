"""Settings as users type them."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf

from jointface.command_line import expand_home, require_letters, with_home
from jointface.datamodules import W300LP, CropTransform
from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.running.expected_errors import one_line, override_of
from jointface.running.resuming import resume_command
from jointface.settings import as_list, require_whole_number


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("IBUG", ["IBUG"]),
        (20, [20]),
        (None, []),
        ([], []),
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        (OmegaConf.create(["a", "b"]), ["a", "b"]),
    ],
)
def test_one_value_alone_is_a_list_of_one(setting: object, values: list[object]) -> None:
    assert as_list(setting) == values


def test_keys_that_take_a_list_take_a_word(tiny_data: Path, tiny_model: MorphableModel) -> None:
    def photos(subsets: object) -> list[str]:
        return W300LP(tiny_data / "300W_LP", "train", CropTransform(32), tiny_model, subsets=subsets).photos.tolist()

    assert photos("AFW") == photos(["AFW"]) != photos(None)


@pytest.mark.parametrize("value", [-1, 11, 1.0, True, "3", None])
def test_other_than_a_whole_number_in_its_range_is_refused(value: object) -> None:
    require_whole_number("key", 0, 0, 10)
    with pytest.raises(ConfigError, match=f"key={value}: expected a whole number from 0 to 10"):
        require_whole_number("key", value, 0, 10)


NAMES = [
    "plain",
    "Müller",
    "two words",
    "a=b",
    "a,b",
    "a (1)",
    "[x]",
    "{x}",
    "it's",
    'a"b',
    "日本",
    "a#b&c;d",
    "true",
    "3",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_right_spelling_of_a_path_is_told(name: str) -> None:
    """Whatever is in it, what is printed can be pasted into a shell, and Hydra reads the path from it."""

    def read(word: str) -> object:
        return OverridesParser.create().parse_overrides([word])[0].value()

    word = override_of("paths.data_dir", f"/data/{name}")
    assert read(word) == f"/data/{name}"
    assert (word == f"paths.data_dir=/data/{name}") == (name in ("plain", "two words", "true", "3"))
    if name in ("plain", "two words", "true", "3", "a,b"):  # a list of values, to sweep over
        return
    with pytest.raises(OverrideParseException) as caught:
        read(f"paths.data_dir=/data/{name}")
    message = one_line(caught.value)
    start = f"error: paths.data_dir=/data/{name}: put the value in quotes, "
    assert message.startswith(start)
    assert shlex.split(message.removeprefix(start)) == [word]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_that_resumes_a_run_holds_any_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = [override_of("paths.data_dir", f"/data/{name}"), "checkpoint=old.ckpt"]
    runtime = SimpleNamespace(config_sources=[SimpleNamespace(provider="command-line", path=f"/conf/{name}")])
    hydra = SimpleNamespace(
        job=SimpleNamespace(config_name="train"),
        runtime=runtime,
        overrides=SimpleNamespace(task=task),
        mode=RunMode.RUN,
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    *_, option, folder, data, checkpoint = shlex.split(resume_command(Path(f"/runs/{name}/last.ckpt")))
    assert [option, folder] == ["--config-dir", f"/conf/{name}"]
    overrides = OverridesParser.create().parse_overrides([data, checkpoint])
    assert [override.value() for override in overrides] == [f"/data/{name}", f"/runs/{name}/last.ckpt"]


@pytest.mark.parametrize(
    ("word", "taken"),
    [
        ("paths.data_dir=~/data", "paths.data_dir=/home/me/data"),
        ('paths.data_dir="~/my data"', 'paths.data_dir="/home/me/my data"'),
        ("checkpoint=[joint:~/a.ckpt,~/b.ckpt]", "checkpoint=[joint:/home/me/a.ckpt,/home/me/b.ckpt]"),
        ("~callbacks.figures", "~callbacks.figures"),
        ("name=a~/b", "name=a~/b"),
    ],
)
def test_a_tilde_is_the_home_folder(word: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home(word) == taken


def test_a_tilde_in_a_file_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create({"data": "~/data", "of": ["~/a", "a~/b"], "root": "${data}/celeba", "none": "???"})
    OmegaConf.set_struct(config, True)
    expand_home(config)
    assert config.root == "/home/me/data/celeba"
    assert config.of == ["/home/me/a", "a~/b"]


def test_letters_that_the_locale_lacks_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_letters(["paths.data_dir=/Größe"])
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(SystemExit, match=r"error: this locale knows only ASCII letters: set LC_ALL=C\.UTF-8"):
        require_letters(["paths.data_dir=/Größe"])
