"""Self-contained checkpoints: what it takes to rebuild the network, beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn

from jointface.errors import CheckpointError, JointFaceError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.backbones import TransformersBackbone
from jointface.modules.network import FaceNetwork, build_network

KEY = "jointface"  # where a Lightning checkpoint keeps the description
FORMAT = 1  # raised when older code can no longer read new checkpoints
MODEL_PREFIX = "shape_decoder.morphable_model."


def describe(network: FaceNetwork, config: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a network, in plain containers: its config, attribute names, label sets (attribute names and
    alpha by name), and the morphable model by name and content hash. The model's own tensors are among the weights."""
    config = dict(config)
    if network.shape_decoder is not None:  # defaults too: a change of them must not pass unnoticed
        config["shape_decoder"] = {**config["shape_decoder"], "region_weights": network.shape_decoder.region_weights}
    if isinstance(network.backbone, TransformersBackbone):
        config["backbone"] = network.backbone.plain_config()
    model = None if network.shape_decoder is None else network.shape_decoder.morphable_model
    return {
        "format": FORMAT,
        "network": config,
        "attributes": list(network.attributes),
        "label_sets": network.label_sets,
        "morphable_model": None
        if model is None
        else {"name": model.name, "sha256": model.content_hash(), "num_shape": model.num_shape},
    }


def load_model(path: str | Path, device: str | torch.device = "cpu") -> FaceNetwork:
    """Rebuilds the network of a training checkpoint from that file alone, in evaluation mode.

    Nothing is unpickled, and only classes of jointface are built. `network.label_sets` holds, for each label set it was
    trained on, `attributes` and `alpha`, which calibrates their logits.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of jointface, or from a newer version.
    """
    checkpoint = read_checkpoint(path)
    description, weights = checkpoint[KEY], network_weights(checkpoint)
    try:
        refuse_foreign_targets(description["network"], path)
        model = _morphable_model(description["morphable_model"], weights)
        network = build_network(description["network"], description["attributes"], model)
        network.load_state_dict(weights)
    except CheckpointError:
        raise
    except (JointFaceError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: the weights do not fit the model that the checkpoint describes ({reason})"
        ) from error
    network.label_sets = description["label_sets"]
    return network.to(device).eval()


def read_checkpoint(path: str | Path, wanted: str = "best.ckpt") -> dict[str, Any]:
    """A checkpoint's content, read without unpickling and checked to be one of jointface's.

    Args:
        wanted: which of a run's checkpoints the caller should give.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of jointface, or from a newer version.
    """
    if (inside := Path(path) / "checkpoints" / wanted).is_file():
        raise CheckpointError(f"{path}: the folder of a run, not a checkpoint; give {inside}")
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {Path(path).absolute()}: a run leaves its own in checkpoints/{wanted}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types on a damaged or foreign file
        raise CheckpointError(
            f"{path}: not a readable checkpoint; it is cut short, of another program, or holds more than tensors and "
            "plain containers"
        ) from error
    known = isinstance(checkpoint, dict) and isinstance(checkpoint.get(KEY), dict) and "state_dict" in checkpoint
    if not known:
        raise CheckpointError(f"{path}: not a checkpoint of jointface; give one that jointface.train wrote")
    if (found := checkpoint[KEY].get("format", 0)) > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer jointface (format {found}, this one reads {FORMAT}); update jointface"
        )
    return checkpoint


def require_same_model(checkpoint: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses to go on training from another model's checkpoint, and says what differs."""
    found = checkpoint.get(KEY, {})
    differences = _attribute_differences(found, expected)
    for part in ("network", "morphable_model"):
        differences += _differences(part, found.get(part), expected[part])
    if not differences:
        return
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise CheckpointError(
        f"the checkpoint holds another model than the config: {'; '.join(differences[:3])}{more}. Repeat the overrides "
        "of its run, which are in .hydra/overrides.yaml there, or train from the start"
    )


def _attribute_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    there, here = found.get("attributes", []), expected["attributes"]
    if there == here:
        return []
    only = {"in the checkpoint": set(there) - set(here), "in the config": set(here) - set(there)}
    listing = [f"only {where} {_some(sorted(names))}" for where, names in only.items() if names]
    return [
        f"it has {len(there)} attributes ({_label_sets(found)}), the config {len(here)} ({_label_sets(expected)}), "
        + (", ".join(listing) or "in another order")
    ]


def _label_sets(description: Mapping[str, Any]) -> str:
    names = sorted({labels["label_set"] for labels in description.get("label_sets", {}).values()})
    return "of " + " and ".join(names) if names else "of no label set"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _differences(key: str, found: Any, expected: Any) -> list[str]:
    """Where two descriptions differ, key by key, with both values."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = sorted({*found, *expected})
        return [part for k in keys for part in _differences(f"{key}.{k}", found.get(k), expected.get(k))]
    if found == expected:
        return []
    there, here = (_brief(value) for value in (found, expected))
    return [f"{key} is {there} in the checkpoint and {here} in the config"]


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def require_training_state(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuses to go on training from a file of weights alone."""
    missing = [key for key in ("optimizer_states", "lr_schedulers", "loops", "global_step") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path}: holds no state of a training ({', '.join(missing)} missing), only a model; give the last.ckpt of "
            "a run"
        )


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's part of the LightningModule's weights."""
    prefix = "network."
    return {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}


def refuse_foreign_targets(config: Mapping[str, Any], path: str | Path) -> None:
    """A checkpoint is data: it may ask for network parts of this package, and for no other code and no download."""
    for part in (config["backbone"], config["shape_decoder"], config["attribute_classifier"]):
        if part is None:
            continue
        if not _is_network_part(str(part["_target_"])):
            raise CheckpointError(
                f"{path}: asks to build {part['_target_']}, which is no part of a jointface network; refused"
            )
        if part.get("pretrained") is not None:
            raise CheckpointError(f"{path}: asks to load {part['pretrained']} from elsewhere; refused")


def _is_network_part(target: str) -> bool:
    if not target.startswith("jointface."):
        return False
    try:
        part = get_class(target)
    except Exception:  # whatever keeps the name from being a class
        return False
    return issubclass(part, nn.Module) and part.__module__.startswith("jointface.")


def _morphable_model(
    description: Mapping[str, Any] | None, weights: Mapping[str, torch.Tensor]
) -> MorphableModel | None:
    if description is None:
        return None
    tensors = {key[len(MODEL_PREFIX) :]: value for key, value in weights.items() if key.startswith(MODEL_PREFIX)}
    basis = tensors.pop("basis").transpose(0, 1)
    shape_basis, expression_basis = basis.tensor_split([description["num_shape"]], dim=-1)
    model = MorphableModel(description["name"], shape_basis=shape_basis, expression_basis=expression_basis, **tensors)
    if model.content_hash() != description["sha256"]:
        raise CheckpointError(
            f"the morphable model {description['name']} in the checkpoint does not match its own hash"
        )
    return model
