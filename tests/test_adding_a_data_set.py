"""The files that docs/adding_a_data_set.md shows make a data set that trains."""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from jointface.command_line import CONF_DIR
from jointface.train import train

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_data_set.md"
TINY = [
    "image_size=32", "batch_size={shape: 2, attributes: 2}", "num_workers=0", "trainer.max_steps=2",
    "trainer.val_check_interval=2", "+trainer.enable_progress_bar=false", "~callbacks.progress_bar",
    "model.backbone.embedding_size=8", "model.backbone.hidden_sizes=[8,8,16,16]", "model.backbone.depths=[1,1,1,1]",
    "data.sources.synthetic_shape.dataset.num_faces={train: 2, val: 2}", "name=tiny",
]  # fmt: skip


@pytest.fixture
def page_files(tmp_path: Path) -> Path:
    """The files of the page, where it says that they lie."""
    blocks = re.findall(r"^`([\w/]+\.(?:py|yaml))`.*?\n```\w+\n(.*?)```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [name for name, _ in blocks] == ["my_faces.py", "conf/source/my_faces.yaml", "conf/data/my_faces.yaml"]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def write_data(root: Path) -> None:
    (root / "photos").mkdir(parents=True)
    rows = ["file,split,x,y,size,Smiling,Eyeglasses"]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        rows.append(f"{number}.png,{split},20,20,16,{number % 2},{'' if number == 0 else number // 2 % 2}")
        cv2.imwrite(str(root / "photos" / f"{number}.png"), np.full((40, 40, 3), 20 * number, np.uint8))
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def test_the_data_set_of_the_page_trains(page_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(page_files / "data" / "my_faces")
    monkeypatch.syspath_prepend(page_files)
    paths = [f"paths.data_dir={page_files}/data", f"paths.run_dir={page_files}/run"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        searched = f"hydra.searchpath=[file://{page_files}/conf]"
        metrics = train(compose("train", overrides=["data=my_faces", searched, *paths, *TINY, "~callbacks.figures"]))
    assert math.isfinite(metrics["test/my_faces/balanced_accuracy"])
