"""A training that starts from the weights of another network instead of from random ones."""

import logging
from pathlib import Path

import torch
from torch import nn

from jointface.errors import ConfigError
from jointface.modules.checkpoint import load_model
from jointface.modules.network import AttributeClassifier, FaceNetwork

log = logging.getLogger(__name__)

HALF = 1e-3  # a morphable model that was stored in half precision differs by less, relative to its largest number


def copy_weights(network: FaceNetwork, checkpoint: str | Path) -> None:
    """Gives a network the weights of another one as far as both are alike.

    The backbone must be the same. The shape decoder is taken over if both predict the same morphable model by the same
    layers. The classifier's row of each attribute that both know is taken over. Everything else keeps the values
    that it has.

    Args:
        checkpoint: of the other network, as for `load_model`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: its backbone is another one.
    """
    other = load_model(checkpoint)
    try:
        network.backbone.load_state_dict(other.backbone.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"model.weights={checkpoint}: its backbone is another one than that of this config; set model.weights=null "
            "to start from random weights, or choose the model/backbone that it was trained with"
        ) from error
    copied = ["backbone"]
    if _copy_decoder(network, other):
        copied.append("shape decoder")
    elif network.shape_decoder is not None and other.shape_decoder is not None:
        log.warning("The shape decoder of %s is left out: its morphable model or its layers are others", checkpoint)
    both = [name for name in network.attributes if name in other.attributes]
    if both and _copy_rows(network, other, both):
        copied.append(f"{len(both)} of {len(network.attributes)} attributes")
    log.info("Starts from %s: %s", checkpoint, ", ".join(copied))


def _copy_decoder(network: FaceNetwork, other: FaceNetwork) -> bool:
    """Copies the decoder's layers, not its morphable model; False where layers or models differ."""
    own, theirs = network.shape_decoder, other.shape_decoder
    if own is None or theirs is None or not own.morphable_model.agrees_with(theirs.morphable_model, HALF):
        return False
    values, others = own.state_dict(), theirs.state_dict()
    if {name: value.shape for name, value in values.items()} != {name: of.shape for name, of in others.items()}:
        return False
    model = {name: value for name, value in values.items() if name.startswith("morphable_model.")}
    own.load_state_dict({**others, **model})
    return True


@torch.no_grad()
def _copy_rows(network: FaceNetwork, other: FaceNetwork, names: list[str]) -> bool:
    """Copies the rows of these attributes; False where the classifiers differ."""
    own, theirs = network.attribute_classifier, other.attribute_classifier
    if not isinstance(own, AttributeClassifier) or not isinstance(theirs, AttributeClassifier):
        return False
    to, source = own.layers[-1], theirs.layers[-1]
    assert isinstance(to, nn.Linear)
    assert isinstance(source, nn.Linear)
    if to.in_features != source.in_features:
        return False
    rows, other_rows = ([of.attributes.index(name) for name in names] for of in (network, other))
    to.weight[rows], to.bias[rows] = source.weight[other_rows], source.bias[other_rows]
    return True
