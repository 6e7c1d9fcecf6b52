"""Shared fixtures: tiny faithful copies of the data sets, and the real files where a machine has them."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from omegaconf import DictConfig

from jointface.command_line import CONF_DIR
from jointface.datamodules import W300LP, CelebA, CropTransform, SyntheticFaces
from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.inference.onnx_files import write_onnx
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.head import Head
from jointface.synthesis.head_cache import load_head
from tests.browser import Browser, open_browser
from tests.data.aflw2000 import data as aflw2000_data
from tests.data.bfm_3ddfa import data as bfm_data
from tests.data.celeba import data as celeba_data
from tests.data.lfwa import data as lfwa_data
from tests.data.w300lp import data as w300lp_data
from tests.networks import network_to_export

REAL_DATA = Path(os.environ.get("JOINTFACE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def conf_read_once() -> Iterator[None]:
    """Hydra reads each file of conf/ once, not for every config, and lists all choices only for files whose defaults
    refer to some. Together that is most of the time a config takes."""
    read, known, choices = ConfigRepository.load_config, {}, defaults_list._create_interpolation_map

    def load_config(repository: ConfigRepository, config_path: str) -> Any:
        folders = {source.path for source in repository.sources if source.scheme() == "file"}
        if folders != {str(CONF_DIR)}:
            return read(repository, config_path)  # of a test, which may change them
        if config_path not in known:
            known[config_path] = read(repository, config_path)
        return copy.deepcopy(known[config_path])

    def choices_if_needed(overrides: Any, defaults: Any, self_added: bool) -> DictConfig:
        refers = any(default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if refers else DictConfig({})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        patch.setattr(defaults_list, "_create_interpolation_map", choices_if_needed)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data in {REAL_DATA}; set JOINTFACE_TEST_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def bfm(real_data: Path) -> MorphableModel:
    """The real BFM basis."""
    return load_bfm_3ddfa(str(real_data / "bfm_3ddfa"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny copies of every data set, to read only."""
    folder = tmp_path_factory.mktemp("data")
    model = load_bfm_3ddfa(str(bfm_data.write(folder / "bfm_3ddfa")))
    celeba_data.write(folder / "celeba")
    lfwa_data.write(folder / "LFWA")
    w300lp_data.write(folder / "300W_LP", model)
    aflw2000_data.write(folder / "AFLW2000", model)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_data: Path) -> MorphableModel:
    """The tiny morphable model that the tiny data sets are made with."""
    return load_bfm_3ddfa(str(tiny_data / "bfm_3ddfa"))


@pytest.fixture(scope="session")
def mixed_batch(tiny_data: Path, tiny_model: MorphableModel) -> dict[str, dict[str, torch.Tensor]]:
    """Eight faces with attributes and eight others with shape."""
    crop = CropTransform(64)
    celeba = CelebA(tiny_data / "celeba", "train", crop)
    fitted = W300LP(tiny_data / "300W_LP", "train", crop, tiny_model, val_fraction=0)
    collate = torch.utils.data.default_collate
    return {"celeba": collate([celeba[i] for i in range(8)]), "w300lp": collate([fitted[4 * i] for i in range(8)])}


@pytest.fixture(scope="session")
def onnx_file(tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The network with a morphable model that is made to be exported, as an ONNX file. Writing it takes seconds, so
    that processes that test side by side share it."""
    folder = tmp_path_factory.getbasetemp()
    path = (folder if worker_id == "master" else folder.parent) / "network.onnx"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_onnx(network_to_export(tiny_model, "morphable"), path)
    return path


@pytest.fixture(scope="session")
def head() -> Head:
    """The synthetic head, of the user's cache or built now."""
    return load_head()


@pytest.fixture(scope="session")
def factory() -> FaceFactory:
    """The factory of all synthetic data sets with the default settings; made once, as it takes seconds."""
    return SyntheticFaces("train", CropTransform(32), num_faces=1).factory


@pytest.fixture
def quick_factories(factory: FaceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factories with other settings are made sooner."""
    lend_parts(factory, monkeypatch)


def lend_parts(factory: FaceFactory, patch: pytest.MonkeyPatch) -> None:
    """Lets factories with other settings take wardrobe and fields of the head from the default one, which are the
    same."""
    patch.setattr("jointface.synthesis.faces.load_wardrobe", lambda head: factory.wardrobe)
    patch.setattr("jointface.synthesis.renderer.make_fields", lambda head: factory.renderer.fields)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium without a window. It ends with the module, because a page that is left open goes on drawing."""
    with open_browser(tmp_path_factory.mktemp("browser")) as found:
        yield found
