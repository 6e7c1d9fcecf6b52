"""The basis in face3d's layout, and the writers of both layouts."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.geometry.bfm import load_bfm2009
from jointface.geometry.bfm_writers import write_bfm2009, write_bfm_3ddfa

COMPONENTS = (40, 10)  # of the tiny model


def face3d_struct(folder_3ddfa: Path) -> dict[str, np.ndarray]:
    """face3d's struct, put together from the files of 3DDFA as its generate.m does from the ones they come from."""
    load = {file.stem: np.load(file) for file in folder_3ddfa.glob("*.npy")}
    shape, expression = load["w_shp_sim"], load["w_exp_sim"]
    half = load["u_shp"] / 2
    return {
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


def write_face3d(folder: Path, folder_3ddfa: Path, **changes: Any) -> Path:
    """Writes BFM.mat and BFM_UV.mat with some fields changed, or left out where they are None."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in {**face3d_struct(folder_3ddfa), **changes}.items() if value is not None}
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


def test_the_same_basis_in_either_layout_is_the_same_model(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    model = load_bfm2009(str(write_face3d(tmp_path, tiny_data / "bfm_3ddfa")), *COMPONENTS)
    assert model.name == "bfm2009"
    assert same(model, tiny_model)


def test_face3d_layout_round_trip(tiny_model: MorphableModel, tmp_path: Path) -> None:
    write_bfm2009(tmp_path / "new" / "folder", tiny_model)
    assert same(load_bfm2009(str(tmp_path / "new" / "folder" / "BFM.mat"), *COMPONENTS), tiny_model)


def test_3ddfa_layout_round_trip(tiny_model: MorphableModel, tmp_path: Path) -> None:
    write_bfm_3ddfa(tmp_path / "new" / "folder", tiny_model)
    assert same(load_bfm_3ddfa(str(tmp_path / "new" / "folder"), *COMPONENTS), tiny_model)


def test_the_real_basis_survives_both_layouts(bfm: MorphableModel, tmp_path: Path) -> None:
    write_bfm_3ddfa(tmp_path, bfm)
    assert same(load_bfm_3ddfa(str(tmp_path)), bfm)
    write_bfm2009(tmp_path, bfm)
    assert same(load_bfm2009(str(tmp_path / "BFM.mat"), 40, 10), bfm)


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
    assert (model["expEV"] == 0.5).all()
    assert model["expEV"].shape == (10, 1)
    shape, expression = np.linspace(-3e4, 3e4, 40)[:, None], np.linspace(-1, 1, 10)[:, None]
    flat = model["shapeMU"] + model["shapePC"].dot(shape) + model["expPC"].dot(expression)
    face = np.reshape(flat, [3, vertices], "F").T  # as generate_vertices does
    expected = tiny_model(torch.from_numpy(shape.T).float(), torch.from_numpy(expression.T).float())[0]
    np.testing.assert_allclose(face, expected.numpy(), rtol=0, atol=0.2)  # micrometres, of 160,000
    colours = model["texMU"] + model["texPC"].dot(np.ones((1, 1)) * model["texEV"])  # as generate_colors does
    assert colours.shape == (3 * vertices, 1)
    assert (colours == 128).all()
    assert np.vstack((model["tri"], model["tri_mouth"])).shape == model["tri"].shape


def test_sigmas_must_fit_the_model(tiny_model: MorphableModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 standard deviations for 40 components"):
        write_bfm2009(tmp_path, tiny_model, shape_sigma=torch.ones(3))


def test_fewer_components_are_the_first_ones(tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path) -> None:
    small = load_bfm2009(str(write_face3d(tmp_path, tiny_data / "bfm_3ddfa")), 7, 3)
    assert (small.num_shape, small.num_expression) == (7, 3)
    assert torch.equal(small.shape_basis, tiny_model.shape_basis[..., :7])
    assert torch.equal(small.expression_basis, tiny_model.expression_basis[..., :3])


def test_the_same_path_gives_the_same_object(tiny_model: MorphableModel, tmp_path: Path) -> None:
    write_bfm2009(tmp_path, tiny_model)
    path = str(tmp_path / "BFM.mat")
    assert load_bfm2009(path, *COMPONENTS) is load_bfm2009(path, *COMPONENTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapePC": None, "tri": None}, "no field shapePC, tri in 'model'"),
        ({"expMU": None, "expPC": None}, "no field expMU, expPC .*has no expressions, .* 3DDFA's Model_Expression.mat"),
        ({"shapeMU": np.zeros((7, 1))}, r"shapeMU: expected shape \(3 x vertices, 1\), found \(7, 1\)"),
        ({"expMU": np.zeros((3, 1))}, r"expMU: expected shape \(11163, 1\), found \(3, 1\)"),
        ({"shapePC": np.zeros((11160, 40))}, r"shapePC: expected shape \(11163, at least 40\) to match shapeMU"),
        ({"expPC": np.zeros((11163, 4))}, r"expPC: expected shape \(11163, at least 10\)"),
        ({"expMU": np.full((11163, 1), np.nan)}, "expMU: holds NaN"),
        ({"expMU": "text"}, "expMU: expected numbers|expMU: .*type <U4"),
        ({"tri": np.array([[1], [2], [3722]])}, "tri: expected 1-based vertex indices .* for 3721 vertices"),
        ({"tri": np.ones((4, 3))}, r"tri: expected 1-based vertex indices .* found \(4, 3\)"),
        ({"kpt_ind": np.zeros((1, 68))}, "kpt_ind: expected 68 vertex indices in 1 ... 3721"),
        ({"kpt_ind": np.ones((1, 67))}, "kpt_ind: .* found 67"),
    ],
)
def test_a_broken_struct_is_refused_in_one_line(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_face3d(tmp_path, tiny_data / "bfm_3ddfa", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_bfm2009(str(path), *COMPONENTS)
    assert "\n" not in str(caught.value)


def break_files(folder: Path, change: str) -> None:
    match change:
        case "missing":
            (folder / "BFM.mat").unlink()
        case "no uv":
            (folder / "BFM_UV.mat").unlink()
        case "cut":
            data = (folder / "BFM.mat").read_bytes()
            (folder / "BFM.mat").write_bytes(data[: len(data) // 2])
        case "empty":
            (folder / "BFM.mat").write_bytes(b"")
        case "other .mat":  # the raw file of the University of Basel has its fields outside any struct
            scipy.io.savemat(folder / "BFM.mat", {"shapeMU": np.zeros((3, 1))})
        case "no struct":
            scipy.io.savemat(folder / "BFM.mat", {"model": np.zeros((3, 1))})
        case "uv":
            scipy.io.savemat(folder / "BFM_UV.mat", {"UV": np.zeros((53490, 2))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "no BFM.mat in .*: morphable_model.path must name the BFM.mat"),
        ("no uv", "no BFM_UV.mat in .*: face3d's generate.m writes it with BFM.mat"),
        ("cut", "BFM.mat: not a readable MATLAB file"),
        ("empty", "BFM.mat: not a readable MATLAB file"),
        ("other .mat", "BFM.mat: no variable 'model' in it, it holds shapeMU; .*morphable_model=bfm2009_parts"),
        ("no struct", "BFM.mat: 'model' is no struct"),
        ("uv", r"BFM_UV.mat: UV: expected shape \(3721, 2\), found \(53490, 2\)"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(
    tiny_model: MorphableModel, tmp_path: Path, change: str, message: str
) -> None:
    write_bfm2009(tmp_path, tiny_model)
    break_files(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        load_bfm2009(str(tmp_path / "BFM.mat"), *COMPONENTS)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.npy"
    write_atomically(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot write .*file.npy \(No space left on device\); make room") as caught:
        write_atomically(path, b"new content")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file.npy"]
    assert path.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.npy", b"content")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tiny_model: MorphableModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (write_bfm_3ddfa, write_bfm2009):
        with pytest.raises(DataError, match=r"cannot write .*file/basis/.*choose a folder"):
            write(tmp_path / "file" / "basis", tiny_model)
    assert (tmp_path / "file").read_text() == "in the way"
