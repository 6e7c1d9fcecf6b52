"""Writes a trained network for other programs: `python -m jointface.export checkpoint=PATH format=onnx`."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import DictConfig

from jointface.command_line import entry_point
from jointface.detection.finders import build_finder
from jointface.errors import ConfigError
from jointface.inference.backends import network_facts
from jointface.inference.calibration_crops import Crops, photo_crops, rendered_crops
from jointface.inference.hub import push_folder, write_folder
from jointface.inference.network_graph import save_program, trace
from jointface.inference.network_metadata import facts_to_metadata, output_names
from jointface.inference.onnx_files import compare, quiet, require_equal, write_int8, write_onnx
from jointface.inference.web_page import write_page
from jointface.modules.checkpoint import load_model
from jointface.modules.network import FaceNetwork
from jointface.settings import require_whole_number

log = logging.getLogger("jointface.export")

RECIPE = """To use it, with RGB crops:
    facts = {"attributes": ""}  # and image_size, alpha, mesh: JSON texts that the file holds
    program = torch.export.load("%s", extra_files=facts).module()
    outputs = program(torch.zeros(1, 3, %d, %d, dtype=torch.uint8))"""
ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "hub": "", "web": ""}
PRECISIONS = {"int8": "onnx", "float16": "hub"}  # the format of each but float32


def export(config: DictConfig) -> Path:
    """Writes a checkpoint's network in another format, and says how far its outputs are from PyTorch's.

    Returns:
        The file or, for format=hub and format=web, the folder.

    Raises:
        ConfigError: a setting makes no sense, a package is missing, or a float32 file does not agree with PyTorch.
        CheckpointError: the checkpoint is missing or broken. DataError: there are no crops, or no room for the file.
    """
    validate_config(config)
    output = output_path(config)
    if config.format == "hub":
        write_folder(config.checkpoint, output, config.push, half=config.precision == "float16")
        if config.push is not None:
            push_folder(output, config.push)
        log.info("The folder is %s: FaceReader.from_pretrained opens it", output.absolute())
        return output
    network = load_model(config.checkpoint)
    if config.format == "torch_export":
        write_program(network, output)
    elif config.format == "web":
        write_web_page(network, output, config)
    else:
        write_onnx_files(network, output, config)
    return output


def validate_config(config: DictConfig) -> None:
    """Raises a ConfigError that names the setting that makes no sense."""
    for key, known in {"format": (*ENDINGS,), "precision": ("float32", *PRECISIONS)}.items():
        if config[key] not in known:
            raise ConfigError(f"{key}={config[key]}: choose from {', '.join(known)}")
    if config.format != PRECISIONS.get(config.precision, config.format):
        raise ConfigError(f"precision={config.precision} is for format={PRECISIONS[config.precision]} only")
    if config.output is not None and config.format == "web":
        raise ConfigError("format=web writes a folder: set output_dir=FOLDER instead of output")
    if config.push is not None and config.format != "hub":
        raise ConfigError("push uploads the folder of format=hub: set format=hub")
    ending = ENDINGS[config.format]
    if config.output is not None and not str(config.output).endswith(ending):
        raise ConfigError(f"output={config.output}: expected a name that ends with {ending}")
    require_whole_number("num_crops", config.num_crops, 1)


def output_path(config: DictConfig) -> Path:
    """The user's, or a name beside the checkpoint; of the weights that ship, free in the current folder."""
    if config.format == "web":
        return Path(config.output_dir)
    if config.output is not None:
        return Path(config.output)
    checkpoint = Path(config.checkpoint or "free")
    suffix = {"hub": "_hub"}.get(config.format, "_int8" if config.precision == "int8" else "")
    return checkpoint.with_name(f"{checkpoint.stem}{suffix}{ENDINGS[config.format]}")


def write_program(network: FaceNetwork, path: Path) -> None:
    """Writes a program of torch.export with the network's facts as `extra_files`."""
    with quiet():
        program = trace(network)
        save_program(program, path, facts_to_metadata(network_facts(network)))
    log.info("%s, %.1f MB, float32 outputs: %s", path.absolute(), megabytes(path), describe_outputs(network))
    log.info(RECIPE, path.name, network.image_size, network.image_size)


def describe_outputs(network: FaceNetwork) -> str:
    """Names and shapes of what the network's graph returns, in its order."""
    facts = network_facts(network)
    vertices = 0 if facts.mesh is None else len(facts.mesh.mean)
    shapes = {"vertices": f"(B, {vertices}, 3)", "landmarks68": "(B, 68, 3)", "pose": "(B, 3, 3)"}
    return ", ".join(f"{name} {shapes.get(name, f'(B, {len(facts.attributes)})')}" for name in output_names(facts))


def write_onnx_files(network: FaceNetwork, path: Path, config: DictConfig) -> None:
    """Writes the float32 file, checks it, and quantises it if asked to."""
    int8 = config.precision == "int8"
    plain = path.with_name(f"{path.stem.removesuffix('_int8')}_float32.onnx") if int8 else path
    write_onnx(network, plain)
    crops = open_crops(config, network.image_size)
    difference = compare(network, plain, crops)
    require_equal(difference, plain)
    log.info("%s, %.1f MB; largest difference to PyTorch: %s", plain.absolute(), megabytes(plain), difference)
    if int8:
        half = max(1, len(crops) // 2)  # the other half is compared
        write_int8(plain, path, crops[:half])
        difference = compare(network, path, crops[half:] if len(crops) > 1 else crops)
        log.info("%s, %.1f MB; largest difference to PyTorch: %s", path.absolute(), megabytes(path), difference)


def write_web_page(network: FaceNetwork, folder: Path, config: DictConfig) -> None:
    """Writes a page that runs the network in a browser, after its file is checked."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "network.onnx"
        write_onnx(network, file)
        require_equal(compare(network, file, open_crops(config, network.image_size)), file)
        write_page(folder, file, network_facts(network))
    log.info("The page is in %s; see it with python -m http.server -d %s", folder.absolute(), folder)


def open_crops(config: DictConfig, size: int) -> Crops:
    """The crops of the user's folder, or rendered ones."""
    if config.crops is None:
        return rendered_crops(config.num_crops, size)
    return photo_crops(Path(config.crops), build_finder(config.finder), config.num_crops, size)


def megabytes(path: Path) -> float:
    """Size of a file."""
    return path.stat().st_size / 1e6


@entry_point("export")
def main(config: DictConfig) -> None:
    """Exports as the config says."""
    export(config)


if __name__ == "__main__":
    main()
