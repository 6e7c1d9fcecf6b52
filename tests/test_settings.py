"""Settings as users type them."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from jointface.datamodules import W300LP, CropTransform
from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
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
