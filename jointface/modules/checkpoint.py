"""Self-contained checkpoints: they hold the weights and a description from which `load_model` rebuilds the network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from safetensors.torch import load_file
from torch import Tensor, nn

from jointface.errors import CheckpointError, JointFaceError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.backbones import TransformersBackbone
from jointface.modules.network import FaceNetwork, build_network

KEY = "jointface"  # where a Lightning checkpoint and the config of a folder hold the description
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # the files of a folder, as the Hugging Face Hub names them
FREE = Path(__file__).parents[1] / "weights" / "free"  # the weights that ship with the package
MODEL = "shape_decoder.morphable_model."  # prefix of its tensors among the weights of a network
ROUNDING = 1e-5  # a morphable model that was built on another machine differs by less, relative to its largest number
FORMAT = 1  # version of the description; increase it when older code can no longer read new checkpoints


def describe(network: FaceNetwork, config: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a network in plain containers: its config, attributes, label sets and alpha, and the name and content
    hash of the morphable model, whose tensors are among the weights."""
    config, morphable_model = dict(config), None
    if isinstance(network.backbone, TransformersBackbone):
        config["backbone"] = network.backbone.plain_config()
    if (decoder := network.shape_decoder) is not None:
        config["shape_decoder"] = {**config["shape_decoder"], "region_weights": decoder.region_weights}
        model = decoder.morphable_model
        morphable_model = {"name": model.name, "sha256": model.content_hash(), "num_shape": model.num_shape}
    return {
        "format": FORMAT,
        "network": config,
        "attributes": list(network.attributes),
        "label_sets": network.label_sets,
        "morphable_model": morphable_model,
    }


def load_model(path: str | Path, device: str | torch.device = "cpu") -> FaceNetwork:
    """Rebuilds a network from a checkpoint or a folder alone, in evaluation mode.

    Nothing is unpickled, and only classes from jointface are built. For each label set that the network was trained on,
    `network.label_sets` holds the `attributes` and the `alpha` that calibrates their logits.

    Args:
        path: a checkpoint that jointface.train wrote, a folder that jointface.export wrote with format=hub, or "free",
            the weights that ship with the package.

    Raises:
        CheckpointError: a file is missing, damaged, not jointface's, or from a newer version.
    """
    path = model_path(path)
    if is_folder(path):
        description, weights = _read_folder(path)
    else:
        checkpoint = read_checkpoint(path)
        description, weights = checkpoint[KEY], network_weights(checkpoint)
    return rebuild_network(description, weights, path).to(device)


def model_path(checkpoint: str | Path | None) -> Path:
    """Where a network is: the file or folder of this name; for "free" or None, the folder of the weights that ship."""
    return FREE if checkpoint in (None, "free") else Path(checkpoint)


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder as jointface.export writes it for the hub."""
    return (Path(path) / CONFIG).is_file()


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the weights in a folder."""
    try:
        description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))[KEY]
        newer = description.get("format", 0) > FORMAT
        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises types of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{folder.absolute()}: not a model of jointface, looked for {WEIGHTS} and {CONFIG} ({reason})"
        ) from error
    if newer:
        raise CheckpointError(f"{folder}: written by a newer jointface; update jointface")
    return description, weights


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the network in a checkpoint, including the tensors of its morphable model."""
    return _part(checkpoint["state_dict"], "network.")


def rebuild_network(description: Mapping[str, Any], weights: dict[str, Tensor], path: str | Path) -> FaceNetwork:
    """Rebuilds a network from its description and weights, in evaluation mode; `path` names their file in errors.

    Raises:
        CheckpointError: they do not fit together, or the description refers to anything outside jointface.
    """
    try:
        _refuse_foreign_parts(description["network"], path)
        of_model = description["morphable_model"]
        model = None if of_model is None else _morphable_model(of_model, _part(weights, MODEL))
        network = build_network(description["network"], description["attributes"], model)
        network.load_state_dict(weights)
        network.label_sets = description["label_sets"]
    except CheckpointError:
        raise
    except (JointFaceError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: the weights do not fit the model that the checkpoint describes ({reason})"
        ) from error
    return network.eval()


def read_checkpoint(path: str | Path, wanted: str = "best.ckpt") -> dict[str, Any]:
    """Reads a checkpoint without unpickling. If `path` is the folder of a run, the error suggests its file `wanted`.

    Raises:
        CheckpointError: for the same reasons as `load_model`.
    """
    if (inside := Path(path) / "checkpoints" / wanted).is_file():
        raise CheckpointError(f"{path}: this is the folder of a run, not a checkpoint; use {inside}")
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {Path(path).absolute()}; a run keeps its own in checkpoints/{wanted}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types on a damaged or foreign file
        raise CheckpointError(
            f"{path}: not a readable checkpoint; it is truncated, from another program, or holds more than tensors and "
            "plain containers"
        ) from error
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get(KEY), dict) and "state_dict" in checkpoint):
        raise CheckpointError(f"{path}: not a jointface checkpoint; use one that jointface.train wrote")
    if (found := checkpoint[KEY].get("format", 0)) > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer jointface (format {found}, this one reads {FORMAT}); update jointface"
        )
    return checkpoint


def _refuse_foreign_parts(network: Mapping[str, Any], path: str | Path) -> None:
    """Refuses a network config that would run code from outside this package or download anything."""
    for name in ("backbone", "shape_decoder", "attribute_classifier", "landmark_uncertainty"):
        part = network.get(name)
        if part is not None and not _is_network_part(str(part["_target_"])):
            raise CheckpointError(f"{path}: asks to build {part['_target_']}, which is not from jointface; refused")
        if part is not None and part.get("pretrained") is not None:
            raise CheckpointError(f"{path}: asks to load {part['pretrained']} from elsewhere; refused")


def _is_network_part(target: str) -> bool:
    try:
        part = get_class(target) if target.startswith("jointface.") else object
    except Exception:  # the name is not that of a class, for whatever reason
        return False
    return issubclass(part, nn.Module) and part.__module__.startswith("jointface.")


def _morphable_model(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> MorphableModel:
    shape_basis, expression_basis = (
        tensors.pop("basis").transpose(0, 1).tensor_split([description["num_shape"]], dim=-1)
    )
    model = MorphableModel(description["name"], shape_basis=shape_basis, expression_basis=expression_basis, **tensors)
    if model.content_hash() != description["sha256"]:
        raise CheckpointError(
            f"the morphable model {description['name']} in the checkpoint does not match its own hash"
        )
    return model


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def require_training_state(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuses to resume from a file that holds only the weights."""
    missing = [key for key in ("optimizer_states", "lr_schedulers", "loops", "global_step") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path}: holds only a model, no training state ({', '.join(missing)} missing); use the last.ckpt of a run"
        )


def adopt_rounding(checkpoint: Mapping[str, Any], own: MorphableModel) -> None:
    """Replaces the checkpoint's morphable model by `own` if they differ by rounding alone, as after a move to another
    machine, which builds the synthetic head a little differently."""
    description = checkpoint.get(KEY, {}).get("morphable_model")
    stored = _part(network_weights(checkpoint), MODEL)
    if not description or not stored or description["sha256"] == own.content_hash():
        return
    if own.agrees_with(_morphable_model(description, stored), ROUNDING):
        description["sha256"] = own.content_hash()
        tensors = {f"network.{MODEL}{name}": value for name, value in own.state_dict().items()}
        checkpoint["state_dict"].update(tensors)


def require_same_model(checkpoint: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses to resume unless the checkpoint's model has the description `expected`; names the first differences."""
    found = checkpoint.get(KEY, {})
    differences = _attribute_differences(found, expected)
    for key in ("network", "morphable_model"):
        differences += _differences(key, found.get(key), expected[key])
    if differences:
        raise CheckpointError(
            f"the checkpoint's model differs from the config's: {_first(differences, '; ')}. Repeat the overrides of "
            "its run, which are in its .hydra/overrides.yaml, or train from the start"
        )


def _attribute_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    there, here = found.get("attributes", []), expected["attributes"]
    if there == here:
        return []
    of = []
    for description in (found, expected):
        names = {labels["label_set"] for labels in description.get("label_sets", {}).values()}
        of.append(f"(of {' and '.join(sorted(names)) or 'no label set'})")
    sides = {"checkpoint": {*there} - {*here}, "config": {*here} - {*there}}
    only = [f"only in the {side} {_first(sorted(names))}" for side, names in sides.items() if names]
    how = ", ".join(only) or "in another order"
    return [f"it has {len(there)} attributes {of[0]}, the config {len(here)} {of[1]}, {how}"]


def _differences(key: str, found: Any, expected: Any) -> list[str]:
    """Lists the keys in which two descriptions differ, with both values. A setting that is off may be missing in the
    checkpoint, which an older version may have written."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = sorted(key for key in {*found, *expected} if key in found or expected[key])
        return [part for k in keys for part in _differences(f"{key}.{k}", found.get(k), expected.get(k))]
    if found == expected:
        return []
    there, here = (text if len(text := str(value)) <= 60 else f"{text[:57]}..." for value in (found, expected))
    return [f"{key} is {there} in the checkpoint and {here} in the config"]


def _first(items: Sequence[str], separator: str = ", ") -> str:
    more = [f"and {len(items) - 3} more"] if len(items) > 3 else []
    return separator.join([*items[:3], *more])
