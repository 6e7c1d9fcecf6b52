"""A short joint training beats the trivial predictors on both tasks, on real and on synthetic faces."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from jointface.command_line import CONF_DIR
from jointface.train import train


def short_training(run_dir: Path, steps: int, *overrides: str) -> dict[str, float]:
    """The test metrics of a training at 64 pixels; two or three minutes."""
    settings = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}", "image_size=64", "name=short"]
    less = [f"paths.run_dir={run_dir}", "~callbacks.progress_bar", "~callbacks.figures"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return train(compose("train", overrides=[*overrides, *settings, *less]))


@pytest.mark.slow
def test_a_short_joint_training_beats_mean_face_and_majority_class(real_data: Path, tmp_path: Path) -> None:
    """Landmark error at most 0.75 of the mean face's, balanced accuracy at least 0.62 against 0.5, accuracy at least
    0.02 above the majority class."""
    data = ["experiment=joint_celeba_300wlp", "scale=small", f"paths.data_dir={real_data}"]
    metrics = short_training(tmp_path, 400, *data)
    assert metrics["test/aflw2000/nme_2d_68"] < 0.75 * metrics["test/aflw2000/trivial/nme_2d_68"]
    assert metrics["test/celeba/balanced_accuracy"] > 0.62
    assert metrics["test/celeba/accuracy"] > metrics["test/celeba/trivial/accuracy"] + 0.02


@pytest.mark.slow
def test_a_short_training_on_synthetic_faces_beats_mean_face_and_majority_class(tmp_path: Path) -> None:
    """Landmark error at most 0.6 of the mean face's, balanced accuracy at least 0.6 against 0.5, accuracy above the
    majority class."""
    faces = [
        "data.sources.synthetic_attributes.dataset.num_faces={train: 1500, val: 100}",
        "data.sources.synthetic_shape.dataset.num_faces={train: 800, val: 100}",
        "data.sources.synthetic.dataset.num_faces=200",
    ]
    metrics = short_training(tmp_path, 200, *faces)
    assert metrics["test/synthetic/nme_2d_68"] < 0.6 * metrics["test/synthetic/trivial/nme_2d_68"]
    assert metrics["test/synthetic/balanced_accuracy"] > 0.6
    assert metrics["test/synthetic/accuracy"] > metrics["test/synthetic/trivial/accuracy"]
