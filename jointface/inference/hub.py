"""Networks as folders of the Hugging Face Hub: model.safetensors, config.json and a model card; nothing is pickled."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save
from torch import Tensor

from jointface.errors import CheckpointError, ConfigError
from jointface.files import write_atomically
from jointface.inference.model_card import model_card, read_run
from jointface.modules.checkpoint import (
    CONFIG,
    KEY,
    WEIGHTS,
    is_folder,
    model_path,
    network_weights,
    read_checkpoint,
    rebuild_network,
)

CARD = "README.md"
FILES = (WEIGHTS, CONFIG, CARD)


class HubMixin(ModelHubMixin):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for a reader of photos; see huggingface_hub."""

    source: Path | None = None  # the checkpoint or the folder that the network is from

    def _save_pretrained(self, save_directory: Path) -> None:
        """Raises a ConfigError for a reader whose network is not from a checkpoint or from the hub."""
        if self.source is None or self.source.suffix == ".onnx":
            raise ConfigError("save_pretrained needs a reader of a checkpoint, or of a folder that it saved itself")
        write_folder(self.source, save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """The reader of a folder that `save_pretrained` wrote, or of a repository of the hub.

        Args:
            options: of huggingface_hub's `from_pretrained`, such as revision or local_files_only, and of `load`.

        Raises:
            CheckpointError: there is neither, the hub cannot be reached, or the files are damaged.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: neither a folder with {WEIGHTS} and {CONFIG} nor a repository of "
                f"the Hugging Face Hub, USER/NAME, that can be reached ({reason})"
            ) from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **settings: Any,
    ) -> Any:
        folder = Path(model_id)
        options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
        options |= {"local_files_only": local_files_only, "token": token, "allow_patterns": [*FILES]}
        if not folder.is_dir():
            folder = Path(snapshot_download(model_id, **options))
        elif not is_folder(folder):
            raise CheckpointError(f"{folder.absolute()}: looked there for {WEIGHTS} and {CONFIG}, not found")
        return cls.load(folder, **settings)  # type: ignore[attr-defined]


def write_folder(checkpoint: str | Path, folder: Path, name: str | None = None, half: bool = False) -> None:
    """Writes a checkpoint's network as a folder for the hub, with a model card from its run. A folder is copied.

    Args:
        checkpoint: a file or folder, see `load_model`.
        name: of the model in the card, as USER/NAME if it will be uploaded; None takes the run's or the folder's.
        half: whether to store matrices as float16, which halves the file; they are loaded as float32. A tensor that
            float16 cannot hold stays in float32.

    Raises:
        CheckpointError: the checkpoint is missing or broken. DataError: the folder cannot be written to.
    """
    source = model_path(checkpoint)
    if is_folder(source):
        for file in FILES:
            write_atomically(folder / file, (source / file).read_bytes())
        return
    content = read_checkpoint(source)
    description, weights = dict(content[KEY]), network_weights(content)
    network = rebuild_network(description, weights, checkpoint)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    run = read_run(Path(checkpoint))
    card = model_card(description, run, name or run.name or folder.name, parameters)
    tensors = {key: value.clone(memory_format=torch.contiguous_format) for key, value in network.state_dict().items()}
    if half:
        tensors = {key: value.half() if _fits_in_half(value) else value for key, value in tensors.items()}
        network.load_state_dict(tensors)
        if network.shape_decoder is not None:
            sha256 = network.shape_decoder.morphable_model.content_hash()
            description["morphable_model"] = {**description["morphable_model"], "sha256": sha256}
    write_atomically(folder / WEIGHTS, save(tensors, {"format": "pt"}))
    config = {"library_name": "jointface", KEY: description}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    if not (folder / CARD).exists():  # somebody may have added to it
        write_atomically(folder / CARD, card.encode())


def _fits_in_half(tensor: Tensor) -> bool:
    """Whether it is a matrix or a kernel, and no number is too large."""
    return tensor.is_floating_point() and tensor.ndim > 1 and bool(tensor.half().isfinite().all())


def push_folder(folder: Path, repository: str) -> None:
    """Uploads a folder to the hub, with the login of `hf auth login`.

    Raises:
        ConfigError: the hub cannot be reached or refuses.
    """
    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(folder_path=os.fspath(folder), repo_id=repository, allow_patterns=list(FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"push={repository}: not uploaded ({reason}); log in with: hf auth login") from error
