"""The weights that ship with the package: made from free data alone, small, and what the docs say they are."""

import hashlib
import json
from pathlib import Path

from hydra import compose, initialize_config_dir

import jointface
from jointface import FaceReader
from jointface.command_line import CONF_DIR
from jointface.inference.model_card import FREE as FREE_DATA
from jointface.modules import load_model
from jointface.modules.checkpoint import CONFIG, FREE, KEY, WEIGHTS

REPOSITORY = Path(jointface.__file__).parents[1]


def test_their_training_uses_free_data_alone() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=["experiment=free"])
    sources = [source.dataset["_target_"].rpartition(".")[2] for source in config.data.sources.values()]
    assert {name.lower() for name in sources} == {"syntheticfaces", "fairface", "landmarktable"}
    assert {name.lower() for name in sources} < set(FREE_DATA)
    assert config.morphable_model["_target_"].endswith("load_anny")
    assert config.checkpoint is None
    assert config.model.weights is None
    assert config.model.backbone.pretrained is None


def test_they_are_what_the_docs_say() -> None:
    assert hashlib.sha256((FREE / WEIGHTS).read_bytes()).hexdigest() in (REPOSITORY / "docs" / "free.md").read_text()
    assert sum(path.stat().st_size for path in FREE.iterdir()) < 10_000_000
    description = json.loads((FREE / CONFIG).read_text())[KEY]
    made_of = {labels["label_set"] for labels in description["label_sets"].values()}
    made_of.add(description["morphable_model"]["name"])
    assert made_of <= set(FREE_DATA)
    assert "license: apache-2.0" in (FREE / "README.md").read_text()


def test_they_read_a_photo_without_a_setting(real_data: Path) -> None:
    """A CC0 portrait: a man who looks ahead."""
    (face,) = FaceReader.load(max_faces=1)(real_data / "portraits" / "photos" / "092.jpg")
    assert abs(face.pose.yaw) < 30
    assert face.landmarks.shape == (68, 3)
    assert face.attributes.keys() == set(load_model("free").attributes)
