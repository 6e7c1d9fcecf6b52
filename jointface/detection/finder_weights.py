"""The finder's weights: those that ship with the package, and how they are made from a training's checkpoint."""

from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from jointface.detection.finder_network import FinderNetwork, fold_batch_norm
from jointface.errors import CheckpointError
from jointface.files import write_atomically
from jointface.modules.checkpoint import read_checkpoint

SHIPPED = Path(__file__).parents[1] / "weights" / "finder.safetensors"
SHA256 = "4722398fbcb6b8c53930fdac663c3f91a6750d2f8efe33b5534ef5658b9de8a7"


@lru_cache(maxsize=4)
def load_finder(path: str | Path | None = None) -> FinderNetwork:
    """The network, ready to find faces: without batch norms, in evaluation mode. Nothing is unpickled.

    Args:
        path: a training's checkpoint, or what `save_weights` wrote; None takes the weights that ship.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    weights = _read(Path(path or SHIPPED))
    try:
        network = FinderNetwork(weights["stem.0.weight"].shape[0])
        network.load_state_dict(weights)
    except (KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path or SHIPPED}: not the weights of a face finder, or those of an older version's network"
        ) from error
    return fold_batch_norm(network.requires_grad_(False))


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".ckpt":
        weights = read_checkpoint(path)["state_dict"]
        return {name.removeprefix("network."): value for name, value in weights.items()}
    if not path.is_file():
        raise CheckpointError(f"no file {path.absolute()}: looked there for the weights of a face finder")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def save_weights(checkpoint: str | Path, path: str | Path) -> None:
    """Writes the weights of a checkpoint of `experiment=finder` as float16 safetensors.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another network.
    """
    load_finder(checkpoint)
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in _read(Path(checkpoint)).items()
    }
    write_atomically(Path(path), save({name: value.contiguous() for name, value in weights.items()}))
