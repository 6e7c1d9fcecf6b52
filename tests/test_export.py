"""Exported networks: one file each, which says the same as PyTorch and needs nothing else."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig

from jointface.errors import CheckpointError, ConfigError
from jointface.export import output_path, validate_config
from jointface.geometry import MorphableModel
from jointface.geometry.camera import euler_to_rotation
from jointface.inference.backends import NetworkFacts, TorchNetwork, network_facts
from jointface.inference.network_graph import NetworkGraph, nearest_rotation, quaternion_forms, save_program, trace
from jointface.inference.network_metadata import facts_from_metadata, facts_to_metadata
from jointface.inference.onnx_files import compare, require_equal, write_int8, write_onnx
from jointface.inference.onnx_network import OnnxNetwork
from jointface.metrics.pose import rotation_from_vertices
from jointface.modules import MorphableDecoder
from jointface.modules.network import FaceNetwork
from tests.networks import make_module, network_to_export

if not (find_spec("onnxruntime") and find_spec("onnxscript")):  # imported where tests run, not where all collect
    pytest.skip("needs the extra onnx", allow_module_level=True)


@pytest.fixture(scope="module", params=["morphable", "position_map"])
def network(request: pytest.FixtureRequest, tiny_model: MorphableModel) -> FaceNetwork:
    """A network with either decoder."""
    return network_to_export(tiny_model, request.param)


@pytest.fixture(scope="module")
def crops() -> UInt8[np.ndarray, "5 3 64 64"]:
    """Smooth pictures."""
    coarse = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (255 * torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)).byte().numpy()


@pytest.fixture(scope="module")
def file(network: FaceNetwork, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as an ONNX file."""
    if isinstance(network.shape_decoder, MorphableDecoder):
        return request.getfixturevalue("onnx_file")
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    write_onnx(network, path)
    return path


def test_a_file_says_what_the_network_says_whatever_the_size_of_the_batch(
    network: FaceNetwork, file: Path, crops: np.ndarray
) -> None:
    exported, original = OnnxNetwork(file), TorchNetwork(network)
    for batch in (crops, crops[:1]):
        found, truth = exported(batch), original(batch)
        assert np.abs(found.vertices - truth.vertices).max() < 1e-4 * network.image_size
        assert np.abs(found.logits - truth.logits).max() < 1e-4
        rotation = truth.rotation
        if rotation is None:
            region = network.shape_decoder.morphable_model.face_region
            mean = network.shape_decoder.morphable_model.mean[region]
            rotation = rotation_from_vertices(torch.from_numpy(truth.vertices)[:, region], mean).numpy()
        assert np.abs(found.rotation - rotation).max() < 1e-4
    require_equal(compare(network, file, crops), file)


def test_a_file_alone_knows_the_facts_and_gives_calibrated_probabilities(
    network: FaceNetwork, file: Path, crops: np.ndarray
) -> None:
    exported = OnnxNetwork(file)
    assert_same_facts(exported.facts, network_facts(network))
    assert [output.name for output in exported.session.get_outputs()] == [
        "vertices", "landmarks68", "pose", "logits", "probabilities"
    ]  # fmt: skip
    vertices, landmarks, logits, probabilities = exported.session.run(
        ["vertices", "landmarks68", "logits", "probabilities"], {"image": crops}
    )
    assert np.array_equal(landmarks, vertices[:, exported.facts.mesh.landmarks68])
    assert np.allclose(probabilities, 1 / (1 + 3 * np.exp(-logits)), atol=1e-6)


def test_a_file_names_no_path_of_the_machine_that_wrote_it(file: Path) -> None:
    assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()


def test_int8_keeps_facts_and_heads_and_stays_near(
    network: FaceNetwork, file: Path, crops: np.ndarray, tmp_path: Path
) -> None:
    import onnx

    write_int8(file, tmp_path / "int8.onnx", crops)
    quantised = OnnxNetwork(tmp_path / "int8.onnx")
    assert_same_facts(quantised.facts, network_facts(network))
    difference = compare(network, tmp_path / "int8.onnx", crops)
    assert 0 < difference.coordinates[1] < 0.01
    with pytest.raises(ConfigError, match=r"differs from the network in PyTorch by more than 0\.0001"):
        require_equal(difference, file)
    integers = {tensor.name for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer if tensor.data_type == 3}
    assert any("backbone" in name for name in integers)
    assert not any("decoder" in name or "classifier" in name for name in integers)


@pytest.mark.parametrize("network", ["morphable"], indirect=True)
def test_a_program_of_torch_export_carries_the_facts(network: FaceNetwork, crops: np.ndarray, tmp_path: Path) -> None:
    path, facts = tmp_path / "network.pt2", network_facts(network)
    save_program(trace(network), path, facts_to_metadata(facts))
    metadata = dict.fromkeys(facts_to_metadata(facts), "")
    program = torch.export.load(path, extra_files=metadata)
    vertices = program.module()(torch.from_numpy(crops))[0].detach().numpy()
    assert np.abs(vertices - TorchNetwork(network)(crops).vertices).max() < 1e-4 * network.image_size
    assert_same_facts(facts_from_metadata(metadata), facts)


def test_the_rotation_in_a_stretched_one_is_found_without_decomposition() -> None:
    rotation = euler_to_rotation(torch.tensor([[0.3, -1.4, 0.5], [0.0, 0.0, 3.1]]))
    stretched = rotation @ torch.diag(torch.tensor([1.0, 0.4, 0.02]))
    assert torch.allclose(nearest_rotation(stretched, quaternion_forms()), rotation, atol=1e-5)


def test_a_network_with_one_head_has_its_outputs_alone(tiny_model: MorphableModel, crops: np.ndarray) -> None:
    graph = NetworkGraph(make_module(tiny_model, None).network.eval())
    assert graph.output_names == ["logits", "probabilities"]
    assert [output.shape for output in graph(torch.from_numpy(crops))] == [(5, 40), (5, 40)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.onnx", None, "no ONNX file at .*gone.onnx; write one with python -m jointface.export"),
        ("best.ckpt", b"", "best.ckpt: a checkpoint, which backend=onnx does not read; write an ONNX file"),
        ("cut.onnx", b"onnx", "cut.onnx: not an ONNX file of jointface.export"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        OnnxNetwork(tmp_path / name)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ConfigError, match=r"backend=onnx needs the package onnxruntime: pip install 'jointface\[onnx\]'"
    ):
        OnnxNetwork(tmp_path / "any.onnx")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"format": "tflite"}, "format=tflite: choose from onnx, torch_export, hub"),
        ({"precision": "int8", "format": "hub"}, "precision=int8 is for format=onnx only"),
        ({"push": "a/b"}, "push uploads the folder of format=hub"),
        ({"output": "best.ckpt"}, "output=best.ckpt: expected a name that ends with .onnx"),
        ({"num_crops": 0}, "num_crops=0: expected a whole number of at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object], message: str) -> None:
    usual = {"checkpoint": "a.ckpt", "format": "onnx", "precision": "float32", "num_crops": 8}
    usual |= {"output": None, "push": None}
    with pytest.raises(ConfigError, match=message):
        validate_config(DictConfig({**usual, **setting}))


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"checkpoint": "runs/a/best.ckpt"}, "runs/a/best.onnx"),
        ({"checkpoint": "runs/a/best.ckpt", "precision": "int8"}, "runs/a/best_int8.onnx"),
        ({"checkpoint": "free", "format": "hub"}, "free_hub"),  # not inside the package
        ({"output": "face.onnx"}, "face.onnx"),
    ],
)
def test_files_go_beside_the_checkpoint_or_where_the_user_says(setting: dict[str, object], name: str) -> None:
    usual = {"checkpoint": "free", "format": "onnx", "precision": "float32", "output": None}
    assert output_path(DictConfig({**usual, **setting})) == Path(name)


def assert_same_facts(found: NetworkFacts, expected: NetworkFacts) -> None:
    assert facts_to_metadata(found) == facts_to_metadata(expected)
    assert json.loads(facts_to_metadata(found)["attributes"]) == list(expected.attributes)
