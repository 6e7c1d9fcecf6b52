"""BFM 2009 put together from its published parts, with either set of expressions."""

from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import scipy.io
import torch

from jointface.datamodules import AFLW2000, W300LP, CropTransform
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.geometry.bfm import STRAY_UV, load_bfm2009, load_bfm2009_parts
from jointface.geometry.bfm_writers import write_bfm2009
from tests.data.bfm2009_parts import data as parts_data
from tests.test_bfm2009 import same

COMPONENTS = (40, 10)  # of the tiny model


@pytest.fixture
def parts(tmp_path: Path, tiny_model: MorphableModel) -> Path:
    return parts_data.write(tmp_path / "bfm2009", tiny_model)


def load_facewarehouse(folder: Path) -> MorphableModel:
    return load_bfm2009_parts(str(folder), "facewarehouse", 40)


def test_the_parts_are_the_model_that_face3d_merges_them_to(
    parts: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    write_bfm2009(tmp_path, tiny_model)
    merged = load_bfm2009(str(tmp_path / "BFM.mat"), *COMPONENTS)
    model = load_bfm2009_parts(str(parts), "3ddfa", *COMPONENTS)
    assert same(model, merged)
    assert model.name == merged.name


def test_uv_of_the_trimmed_mesh_serves_as_well(parts: Path, tiny_model: MorphableModel) -> None:
    scipy.io.savemat(parts / "BFM_UV.mat", {"UV": tiny_model.uv.double().numpy()})
    assert same(load_bfm2009_parts(str(parts), "3ddfa", *COMPONENTS), tiny_model)


def test_fewer_components_are_the_first_ones(parts: Path, tiny_model: MorphableModel) -> None:
    for expression in ("3ddfa", "facewarehouse"):
        model = load_bfm2009_parts(str(parts), expression, 7, 3)
        assert torch.equal(model.shape_basis, tiny_model.shape_basis[..., :7])
        assert torch.equal(model.expression_basis, tiny_model.expression_basis[..., :3])
        assert load_bfm2009_parts(str(parts), expression, 7, 3) is model


def test_facewarehouse_expressions_are_on_the_same_mesh(parts: Path, tiny_model: MorphableModel) -> None:
    model = load_facewarehouse(parts)
    assert model.name == "bfm2009_facewarehouse"
    assert (model.num_shape, model.num_expression) == COMPONENTS
    assert torch.equal(model.expression_basis, tiny_model.expression_basis)  # std_exp.txt is in it
    torch.testing.assert_close(model.mean, 0.98 * tiny_model.mean)  # shapeMU alone
    assert torch.equal(model.triangles, tiny_model.triangles)
    assert torch.equal(model.landmarks68, tiny_model.landmarks68)
    assert torch.equal(model.mirror, tiny_model.mirror)


def test_facewarehouse_expressions_refuse_the_fits_of_300wlp(parts: Path, tiny_data: Path) -> None:
    model = load_facewarehouse(parts)
    for make, folder, split in ((W300LP, "300W_LP", "train"), (AFLW2000, "AFLW2000", "test")):
        with pytest.raises(ConfigError, match=r"3DDFA's 29 expressions.*set morphable_model.expression=3ddfa"):
            make(tiny_data / folder, split, CropTransform(96), model)


def test_the_real_basis_survives_its_parts(bfm: MorphableModel, tmp_path: Path) -> None:
    """Vertices that the published layout puts astray come back between their neighbours."""
    parts_data.write(tmp_path, bfm, untrimmed=275)
    uv = scipy.io.loadmat(tmp_path / "BFM_UV.mat")["UV"]
    trim = scipy.io.loadmat(tmp_path / "model_info.mat")["trimIndex"].ravel().astype(int) - 1
    uv[trim[np.array(list(STRAY_UV)) - 1]] = 0
    scipy.io.savemat(tmp_path / "BFM_UV.mat", {"UV": uv})
    model = load_bfm2009_parts(str(tmp_path), "3ddfa", *COMPONENTS)
    torch.testing.assert_close(model.uv, bfm.uv, atol=1e-6, rtol=0)
    for name in ("mean", "basis", "triangles", "landmarks68", "mirror", "regions"):
        assert torch.equal(getattr(model, name), getattr(bfm, name)), name


def change(folder: Path, file: str, **changes: Any) -> None:
    """Some variables of a .mat file changed, or left out where they are None."""
    content = {key: value for key, value in scipy.io.loadmat(folder / file).items() if not key.startswith("__")}
    scipy.io.savemat(folder / file, {key: value for key, value in {**content, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("gone", "expression", "message"),
    [
        (["01_MorphableModel.mat"], "3ddfa", "no 01_MorphableModel.mat in .*: get it from the University of Basel"),
        (["BFM_UV.mat"], "3ddfa", "no BFM_UV.mat in .*: it is in the folder util of github.com/anilbas/3DMMasSTN"),
        (["model_info.mat"], "3ddfa", "no model_info.mat in .*: it is in 3DDFA.zip"),
        (["Model_Expression.mat"], "3ddfa", "but Exp_Pca.bin: set morphable_model.expression=facewarehouse"),
        (["Exp_Pca.bin"], "facewarehouse", "but Model_Expression.mat: set morphable_model.expression=3ddfa"),
        (
            ["Exp_Pca.bin", "Model_Expression.mat"],
            "3ddfa",
            "01_MorphableModel.mat has no expressions: Model_Expression.mat supplies them .* Exp_Pca.bin",
        ),
        (["std_exp.txt"], "facewarehouse", "no std_exp.txt in .*Deep3DFaceRecon_pytorch"),
        (["BFM_exp_idx.mat"], "facewarehouse", "no BFM_exp_idx.mat in .*Deep3DFaceRecon_pytorch"),
        (["facemodel_info.mat"], "facewarehouse", "no facemodel_info.mat in .*Deep3DFaceRecon_pytorch"),
    ],
)
def test_a_missing_part_is_named_with_its_source(parts: Path, gone: list[str], expression: str, message: str) -> None:
    for name in gone:
        (parts / name).unlink()
    with pytest.raises(DataError, match=message) as caught:
        load_bfm2009_parts(str(parts), expression, 40)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("01_MorphableModel.mat", {"shapePC": None}, "no variable 'shapePC' in it, it holds shapeMU, .*University"),
        ("01_MorphableModel.mat", {"shapePC": np.zeros((9, 40))}, r"shapePC: expected shape \(11199, at least 40\)"),
        ("01_MorphableModel.mat", {"shapeMU": np.zeros((7, 1))}, r"shapeMU: expected shape \(3 x vertices, 1\)"),
        ("Model_Expression.mat", {"w_exp": np.zeros((9, 10))}, r"w_exp: expected shape \(11163, at least 10\)"),
        ("Model_Expression.mat", {"mu_exp": np.zeros((9, 1))}, r"mu_exp: expected shape \(11163, 1\)"),
        ("model_info.mat", {"trimIndex": np.array([[0], [1]])}, "trimIndex: expected vertex indices in 1 ... 3733"),
        ("model_info.mat", {"keypoints": np.ones((1, 5))}, "keypoints: expected 68 vertex indices in 1 ... 3721"),
        ("BFM_UV.mat", {"UV": np.zeros((9, 2))}, r"UV: expected shape \(3733, 2\) or \(3721, 2\)"),
    ],
)
def test_a_part_of_another_mesh_is_refused(parts: Path, file: str, changes: dict[str, Any], message: str) -> None:
    change(parts, file, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_bfm2009_parts(str(parts), "3ddfa", *COMPONENTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 3, 4, 1000, -4])
def test_a_truncated_exp_pca_is_refused(parts: Path, size: int) -> None:
    data = (parts / "Exp_Pca.bin").read_bytes()
    (parts / "Exp_Pca.bin").write_bytes(data[:size])
    with pytest.raises(DataError, match=r"Exp_Pca.bin: \d+ bytes, where \d+ components of 3721 vertices take"):
        load_facewarehouse(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3", "3 numbers for the 10 components of Exp_Pca.bin"), ("<html>", "not a row of numbers")],
)
def test_deviations_must_fit_the_expressions(parts: Path, text: str, message: str) -> None:
    (parts / "std_exp.txt").write_text(text)
    with pytest.raises(DataError, match=f"std_exp.txt: {message}"):
        load_facewarehouse(parts)


def test_an_unknown_word_is_refused(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no checker of annotations
    with pytest.raises(ConfigError, match="expression='smile' is unknown, known are 3ddfa, facewarehouse"):
        load_bfm2009_parts(str(parts), "smile")


def test_unreadable_parts_are_named(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"01_MorphableModel.mat: no permission to read the file"):
        load_bfm2009_parts(str(parts), "3ddfa")
