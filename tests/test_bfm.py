"""The Basel Face Model in its three layouts: 3DDFA's files, face3d's struct, and the published parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import scipy.io
import torch

from jointface.datamodules import AFLW2000, W300LP, CropTransform
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.geometry.bfm import STRAY_UV, load_bfm2009, load_bfm2009_parts
from jointface.geometry.bfm_writers import write_bfm2009, write_bfm_3ddfa
from tests.data.bfm2009_parts import data as parts_data
from tests.data.bfm_3ddfa import data as bfm_data

COMPONENTS = (40, 10)  # of the tiny model


def write_face3d(folder: Path, folder_3ddfa: Path, **changes: Any) -> Path:
    """Writes BFM.mat as face3d's generate.m does, from the files of 3DDFA; some fields changed, or left out (None)."""
    load = {file.stem: np.load(file) for file in folder_3ddfa.glob("*.npy")}
    half, shape, expression = load["u_shp"] / 2, load["w_shp_sim"], load["w_exp_sim"]
    fields = {
        "shapeMU": half,
        "shapePC": shape,
        "shapeEV": np.ones((shape.shape[1], 1), np.float32),
        "texMU": half,
        "texPC": shape,
        "texEV": np.ones((shape.shape[1], 1), np.float32),
        "tri": scipy.io.loadmat(folder_3ddfa / "tri.mat")["tri"].astype(float),
        "kpt_ind": (load["keypoints_sim"][::3] // 3 + 1)[None].astype(np.uint16),
        "expMU": half,
        "expPC": expression.astype(np.float64),
        "expEV": np.ones((expression.shape[1], 1)),
        "tri_mouth": np.array([[1.0], [2.0], [3.0]]),
    }
    fields = {key: value for key, value in {**fields, **changes}.items() if value is not None}
    scipy.io.savemat(folder / "BFM.mat", {"model": fields}, do_compression=True)
    (folder / "BFM_UV.mat").write_bytes((folder_3ddfa / "BFM_UV.mat").read_bytes())
    return folder / "BFM.mat"


def read_as_face3d(path: Path) -> dict[str, np.ndarray]:
    """What face3d's load_BFM makes of the file: the same steps on the same fields, in its order."""
    model = scipy.io.loadmat(path)["model"][0, 0]
    read = {name: model[name].astype(np.float32) for name in ("shapePC", "shapeEV", "expPC", "expEV")}
    read["shapeMU"] = (model["shapeMU"] + model["expMU"]).astype(np.float32)
    read |= {name: model[name].T.copy(order="C").astype(np.int32) - 1 for name in ("tri", "tri_mouth")}
    read["kpt_ind"] = (np.squeeze(model["kpt_ind"]) - 1).astype(np.int32)
    return read | {name: model[name] for name in ("texMU", "texPC", "texEV")}


def same(a: MorphableModel, b: MorphableModel) -> bool:
    """Whether every buffer is bit for bit the same."""
    return a.content_hash() == b.content_hash() and a.num_shape == b.num_shape


@pytest.fixture
def parts(tmp_path: Path, tiny_model: MorphableModel) -> Path:
    return parts_data.write(tmp_path / "bfm2009", tiny_model)


def load_facewarehouse(folder: Path) -> MorphableModel:
    return load_bfm2009_parts(str(folder), "facewarehouse", 40)


# The same model in every layout


def test_every_layout_gives_the_same_model(
    tiny_data: Path, tiny_model: MorphableModel, parts: Path, tmp_path: Path
) -> None:
    face3d = load_bfm2009(str(write_face3d(tmp_path, tiny_data / "bfm_3ddfa")), *COMPONENTS)
    of_parts = load_bfm2009_parts(str(parts), "3ddfa", *COMPONENTS)
    assert tiny_model.name == "bfm_3ddfa"
    for model in (face3d, of_parts):
        assert model.name == "bfm2009"
        assert same(model, tiny_model)


@pytest.mark.parametrize("which", ["tiny_model", "bfm"])
def test_a_written_model_comes_back(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    folder = tmp_path / "new" / "folder"
    write_bfm_3ddfa(folder, model)
    write_bfm2009(folder, model)
    assert same(load_bfm_3ddfa(str(folder), *COMPONENTS), model)
    assert same(load_bfm2009(str(folder / "BFM.mat"), *COMPONENTS), model)


@pytest.mark.parametrize("layout", ["3ddfa", "face3d", "parts", "facewarehouse"])
def test_fewer_components_are_the_first_ones_and_loading_twice_gives_one_object(
    tiny_data: Path, tiny_model: MorphableModel, parts: Path, tmp_path: Path, layout: str
) -> None:
    write_bfm2009(tmp_path, tiny_model)
    load: Callable[[], MorphableModel] = {
        "3ddfa": lambda: load_bfm_3ddfa(str(tiny_data / "bfm_3ddfa"), 7, 3),
        "face3d": lambda: load_bfm2009(str(tmp_path / "BFM.mat"), 7, 3),
        "parts": lambda: load_bfm2009_parts(str(parts), "3ddfa", 7, 3),
        "facewarehouse": lambda: load_bfm2009_parts(str(parts), "facewarehouse", 7, 3),
    }[layout]
    model = load()
    assert (model.num_shape, model.num_expression) == (7, 3)
    assert torch.equal(model.shape_basis, tiny_model.shape_basis[..., :7])
    assert torch.equal(model.expression_basis, tiny_model.expression_basis[..., :3])
    assert load() is model


# What other programs read and write


def test_3ddfa_files_have_the_published_names_shapes_and_types(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    write_bfm_3ddfa(tmp_path, tiny_model)
    published = tiny_data / "bfm_3ddfa"
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {file.name for file in published.iterdir()} | {"regions.npy"}
    for file in published.glob("*.npy"):
        old, new = np.load(file), np.load(tmp_path / file.name)
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, old)
    for name, variable in {"tri.mat": "tri", "BFM_UV.mat": "UV"}.items():
        old, new = scipy.io.loadmat(published / name)[variable], scipy.io.loadmat(tmp_path / name)[variable]
        assert new.dtype == old.dtype
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-7)  # the model's UV is float32


def test_face3d_reads_what_is_written(tiny_model: MorphableModel, tmp_path: Path) -> None:
    write_bfm2009(tmp_path, tiny_model, shape_sigma=torch.arange(1.0, 41), expression_sigma=torch.full((10,), 0.5))
    model = read_as_face3d(tmp_path / "BFM.mat")
    vertices = len(tiny_model.mean)
    assert model["tri"].shape == tuple(tiny_model.triangles.shape)
    assert model["kpt_ind"].tolist() == tiny_model.landmarks68.tolist()
    assert (model["shapeEV"].ravel() == np.arange(1, 41)).all()
    assert (model["expEV"] == np.full((10, 1), 0.5)).all()
    shape, expression = np.linspace(-3e4, 3e4, 40)[:, None], np.linspace(-1, 1, 10)[:, None]
    flat = model["shapeMU"] + model["shapePC"].dot(shape) + model["expPC"].dot(expression)
    face = np.reshape(flat, [3, vertices], "F").T  # as generate_vertices does
    expected = tiny_model(torch.from_numpy(shape.T).float(), torch.from_numpy(expression.T).float())[0]
    np.testing.assert_allclose(face, expected.numpy(), rtol=0, atol=0.2)  # micrometres, of 160,000
    colours = model["texMU"] + model["texPC"].dot(np.ones((1, 1)) * model["texEV"])  # as generate_colors does
    assert (colours == np.full((3 * vertices, 1), 128)).all()
    assert np.vstack((model["tri"], model["tri_mouth"])).shape == model["tri"].shape
    with pytest.raises(DataError, match="3 standard deviations for 40 components"):
        write_bfm2009(tmp_path, tiny_model, shape_sigma=torch.ones(3))


def test_a_folder_that_cannot_be_made_is_named(tiny_model: MorphableModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (write_bfm_3ddfa, write_bfm2009):
        with pytest.raises(DataError, match=r"cannot write .*file/basis/.*choose a folder"):
            write(tmp_path / "file" / "basis", tiny_model)
    assert (tmp_path / "file").read_text() == "in the way"


# The published parts


def test_uv_of_the_trimmed_mesh_serves_as_well(parts: Path, tiny_model: MorphableModel) -> None:
    scipy.io.savemat(parts / "BFM_UV.mat", {"UV": tiny_model.uv.double().numpy()})
    assert same(load_bfm2009_parts(str(parts), "3ddfa", *COMPONENTS), tiny_model)


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


def test_facewarehouse_expressions_are_on_the_same_mesh(parts: Path, tiny_model: MorphableModel) -> None:
    model = load_facewarehouse(parts)
    assert model.name == "bfm2009_facewarehouse"
    assert (model.num_shape, model.num_expression) == COMPONENTS
    torch.testing.assert_close(model.mean, 0.98 * tiny_model.mean)  # shapeMU alone
    assert torch.equal(model.expression_basis, tiny_model.expression_basis)  # std_exp.txt is in it
    for name in ("triangles", "landmarks68", "mirror"):
        assert torch.equal(getattr(model, name), getattr(tiny_model, name)), name


def test_facewarehouse_expressions_refuse_the_fits_of_300wlp(parts: Path, tiny_data: Path) -> None:
    model = load_facewarehouse(parts)
    for make, folder, split in ((W300LP, "300W_LP", "train"), (AFLW2000, "AFLW2000", "test")):
        with pytest.raises(ConfigError, match=r"3DDFA's 29 expressions.*set morphable_model.expression=3ddfa"):
            make(tiny_data / folder, split, CropTransform(96), model)


# Broken files


def save_npy(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)


def save_mat(name: str, **changes: Any) -> Callable[[Path], None]:
    """Some variables of a .mat file changed, or left out where they are None."""

    def save(folder: Path) -> None:
        old = {key: value for key, value in scipy.io.loadmat(folder / name).items() if not key.startswith("__")}
        scipy.io.savemat(folder / name, {key: value for key, value in {**old, **changes}.items() if value is not None})

    return save


def cut(name: str, size: int | None = None) -> Callable[[Path], object]:
    """Only the first bytes of a file, half of them by default."""
    return lambda folder: (folder / name).write_bytes(
        (data := (folder / name).read_bytes())[: len(data) // 2 if size is None else size]
    )


def remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("w_exp_sim.npy"), "no w_exp_sim.npy in .*: point paths.bfm_dir at"),
        (save_npy("w_shp_sim.npy", lambda basis: basis[:-3]), r"w_shp_sim.npy: expected shape \(11163, at least 40\)"),
        (save_npy("w_exp_sim.npy", lambda basis: basis[:, :4]), r"w_exp_sim.npy: .* \(11163, at least 10\)"),
        (save_npy("u_shp.npy", lambda mean: mean * np.nan), "u_shp.npy: holds NaN"),
        (save_npy("keypoints_sim.npy", lambda _: np.array([{}], object)), "keypoints_sim.npy: not a readable .npy"),
        (save_npy("keypoints_sim.npy", lambda old: old - 10**6), r"keypoints_sim.npy: indices must lie in 0 ... 11162"),
        (cut("tri.mat"), "tri.mat: not a readable MATLAB file"),
        (save_mat("BFM_UV.mat", UV=None, texture=np.zeros(3)), "BFM_UV.mat: no variable 'UV'"),
        (save_mat("tri.mat", tri=np.array([[1], [2], [10_000_000]])), "tri.mat: expected 1-based vertex indices"),
    ],
)
def test_a_broken_folder_of_3ddfa_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(bfm_data.write(tmp_path))
    refused(lambda: load_bfm_3ddfa(str(tmp_path)), message)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(lambda: load_bfm_3ddfa(str(tmp_path / "nowhere")), "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapePC": None, "tri": None}, "no field shapePC, tri in 'model'"),
        ({"expMU": None, "expPC": None}, "no field expMU, expPC .*has no expressions; .* 3DDFA's Model_Expression.mat"),
        ({"shapeMU": np.zeros((7, 1))}, r"shapeMU: expected shape \(3 x vertices, 1\), found \(7, 1\)"),
        ({"expMU": np.zeros((3, 1))}, r"expMU: expected shape \(11163, 1\), found \(3, 1\)"),
        ({"shapePC": np.zeros((11160, 40))}, r"shapePC: expected shape \(11163, at least 40\) to match shapeMU"),
        ({"expPC": np.zeros((11163, 4))}, r"expPC: expected shape \(11163, at least 10\)"),
        ({"expMU": np.full((11163, 1), np.nan)}, "expMU: holds NaN"),
        ({"expMU": "text"}, "expMU: expected numbers|expMU: .*type <U4"),
        ({"tri": np.array([[1], [2], [3722]])}, "tri: expected 1-based vertex indices .* for 3721 vertices"),
        ({"tri": np.ones((4, 3))}, r"tri: expected 1-based vertex indices .* found \(4, 3\)"),
        ({"kpt_ind": np.zeros((1, 68))}, "kpt_ind: expected 68 vertex indices in 1 ... 3721, found 68 in 0 ... 0"),
        ({"kpt_ind": np.ones((1, 67))}, "kpt_ind: .* found 67"),
    ],
)
def test_a_broken_struct_of_face3d_is_refused(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_face3d(tmp_path, tiny_data / "bfm_3ddfa", **changes)
    refused(lambda: load_bfm2009(str(path), *COMPONENTS), message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("BFM.mat"), "no BFM.mat in .*: morphable_model.path must name the BFM.mat"),
        (remove("BFM_UV.mat"), "no BFM_UV.mat in .*: face3d's generate.m writes it with BFM.mat"),
        (cut("BFM.mat"), "BFM.mat: not a readable MATLAB file"),
        (cut("BFM.mat", 0), "BFM.mat: not a readable MATLAB file"),
        # The file of the University of Basel has its fields outside any struct.
        (
            save_mat("BFM.mat", model=None, shapeMU=np.zeros((3, 1))),
            "BFM.mat: no variable 'model' in it, it holds shapeMU; .*morphable_model=bfm2009_parts",
        ),
        (save_mat("BFM.mat", model=np.zeros((3, 1))), "BFM.mat: 'model' is no struct"),
        (save_mat("BFM_UV.mat", UV=np.zeros((9, 2))), r"BFM_UV.mat: UV: expected shape \(3721, 2\), found \(9, 2\)"),
    ],
)
def test_a_broken_file_of_face3d_is_refused(
    tiny_model: MorphableModel, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_bfm2009(tmp_path, tiny_model)
    damage(tmp_path)
    refused(lambda: load_bfm2009(str(tmp_path / "BFM.mat"), *COMPONENTS), message)


BASEL, SIZES = "01_MorphableModel.mat", r"Exp_Pca.bin: \d+ bytes, but \d+ components of 3721 vertices take"


@pytest.mark.parametrize(
    ("damage", "expression", "message"),
    [
        (remove(BASEL), "3ddfa", f"no {BASEL} in .*: get it from the University of Basel"),
        (remove("BFM_UV.mat"), "3ddfa", "no BFM_UV.mat in .*: it is in .* github.com/anilbas/3DMMasSTN"),
        (remove("model_info.mat"), "3ddfa", "no model_info.mat in .*: it is in 3DDFA.zip"),
        (
            remove("Model_Expression.mat", "model_info.mat"), "3ddfa",
            "no Model_Expression.mat .* is in 3DDFA.zip .* Exp_Pca.bin with morphable_model.expression=facewarehouse",
        ),
        (
            remove("Exp_Pca.bin", "BFM_exp_idx.mat"), "facewarehouse",
            "no Exp_Pca.bin .* it is in .*3DFace.* Model_Expression.mat with morphable_model.expression=3ddfa",
        ),
        (remove("std_exp.txt"), "facewarehouse", "no std_exp.txt in .*Deep3DFaceRecon_pytorch"),
        (remove("BFM_exp_idx.mat"), "facewarehouse", "no BFM_exp_idx.mat in .*Deep3DFaceRecon_pytorch"),
        (remove("facemodel_info.mat"), "facewarehouse", "no facemodel_info.mat in .*Deep3DFaceRecon_pytorch"),
        (save_mat(BASEL, shapePC=None), "3ddfa", "no variable 'shapePC' in it, it holds shapeMU, .*University"),
        (save_mat(BASEL, shapePC=np.zeros((9, 40))), "3ddfa", r"shapePC: expected shape \(11199, at least 40\)"),
        (save_mat(BASEL, shapeMU=np.zeros((7, 1))), "3ddfa", r"shapeMU: expected shape \(3 x vertices, 1\)"),
        (save_mat("Model_Expression.mat", w_exp=np.zeros((9, 10))), "3ddfa", r"w_exp: .* \(11163, at least 10\)"),
        (save_mat("Model_Expression.mat", mu_exp=np.zeros((9, 1))), "3ddfa", r"mu_exp: expected shape \(11163, 1\)"),
        (save_mat("model_info.mat", trimIndex=np.array([[0], [1]])), "3ddfa", "trimIndex: .*indices in 1 ... 3733"),
        (save_mat("model_info.mat", keypoints=np.ones((1, 5))), "3ddfa", "keypoints: expected 68 .* in 1 ... 3721"),
        (save_mat("BFM_UV.mat", UV=np.zeros((9, 2))), "3ddfa", r"UV: expected shape \(3733, 2\) or \(3721, 2\)"),
        *((cut("Exp_Pca.bin", size), "facewarehouse", SIZES) for size in (0, 3, 4, 1000, -4)),
        (write("std_exp.txt", "1 2 3"), "facewarehouse", "std_exp.txt: 3 numbers for the 10 components of Exp_Pca.bin"),
        (write("std_exp.txt", "one two"), "facewarehouse", "std_exp.txt: not a row of numbers"),
    ],
)  # fmt: skip
def test_a_broken_part_is_named_with_its_source(
    parts: Path, damage: Callable[[Path], object], expression: str, message: str
) -> None:
    damage(parts)
    components = COMPONENTS if expression == "3ddfa" else (40,)
    refused(lambda: load_bfm2009_parts(str(parts), expression, *components), message)


def test_unreadable_parts_are_named(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    refused(lambda: load_bfm2009_parts(str(parts), "3ddfa"), f"{BASEL}: no permission to read the file")


def test_unknown_expressions_are_refused(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no checker of annotations
    with pytest.raises(ConfigError, match="expression='smile' is unknown; choose from 3ddfa, facewarehouse"):
        load_bfm2009_parts(str(parts), "smile")
