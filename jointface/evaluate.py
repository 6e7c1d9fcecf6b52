"""Evaluates models by published protocols: `python -m jointface.evaluate checkpoint=PATH benchmark=aflw2000`."""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from jointface.command_line import entry_point
from jointface.datamodules.on_disk import require_room_for
from jointface.errors import ConfigError
from jointface.evaluation.benchmark import open_split, run_benchmarks
from jointface.evaluation.group_gaps import read_groups
from jointface.evaluation.other_programs import import_predictions
from jointface.evaluation.participants import Participants, open_participants
from jointface.evaluation.rendered_images import image_files, write_images
from jointface.evaluation.report import write_report
from jointface.evaluation.table_formats import print_results
from jointface.settings import as_list, require_whole_number

log = logging.getLogger("jointface.evaluate")


def evaluate(config: DictConfig) -> dict[str, float]:
    """Runs benchmarks and writes a report, see `jointface.evaluation.report.write_report`. With `import`, it only
    writes a folder of predictions; with `images` alone, only a folder of images.

    If there are several benchmarks, those without data or task are skipped, and the report says why.

    Returns:
        The numbers in metrics.json.

    Raises:
        ConfigError: checkpoints and benchmark share no task, two methods share a name, or a setting is invalid.
        DataError: data or predictions are missing or broken. CheckpointError: a checkpoint is missing or broken.
    """
    validate_config(config)
    output_dir = _output_dir(config)
    require_room_for(output_dir)
    if config["import"] is not None:
        _import_predictions(config, output_dir)
        return {}
    if config.images is not None:
        _write_images(config, output_dir)
        return {}
    checkpoints, compare = ([str(value) for value in as_list(config[key])] for key in ("checkpoint", "compare"))
    participants = open_participants(checkpoints, compare, config.batch_size, config.device, config.precision)
    data_dir = str(config.paths.data_dir)
    groups = None if config.groups is None else read_groups(Path(config.groups))
    results, skipped = run_benchmarks(config.benchmarks, participants, data_dir, config.num_images, groups)
    page = write_report(results, output_dir, "JointFace: evaluation", _facts(config, participants), skipped)
    print_results(results)
    log.info("The report is %s; tables and figures are beside it", page.absolute())
    return {f"{result.name}/{key}": value for result in results for key, value in result.metrics.items()}


def validate_config(config: DictConfig) -> None:
    """Raises a ConfigError that names an invalid setting."""
    require_whole_number("seed", config.seed, 0)
    require_whole_number("batch_size", config.batch_size, 1)
    if config.num_images is not None:
        require_whole_number("num_images", config.num_images, 1)
    several = len(config.benchmarks) != 1
    if config["import"] is not None and several:
        raise ConfigError("import needs the benchmark whose photos the files belong to: set benchmark=aflw2000, ...")
    if config.images is not None and several:
        raise ConfigError("images needs the benchmark whose faces to render: set benchmark=florence or synthetic")
    if all(config[key] in (None, []) for key in ("checkpoint", "compare", "import", "images")):
        raise ConfigError("nothing to evaluate: set checkpoint=RUN/checkpoints/best.ckpt or compare=[NAME:FOLDER]")


def _output_dir(config: DictConfig) -> Path:
    """The folder to write to: for images, imported predictions, or the report."""
    if config.images is not None and config["import"] is None:
        return Path(config.images)
    if config.output_dir is not None:
        return Path(config.output_dir)
    if config["import"] is not None:
        return Path("predictions", config.name, Path(config["import"]).absolute().name)
    return Path("evaluation", config.name)


def _import_predictions(config: DictConfig, output_dir: Path) -> None:
    (benchmark,) = config.benchmarks.values()
    dataset = open_split(benchmark, config.paths.data_dir)
    photos = image_files(dataset, None if config.images is None else Path(config.images))
    triangles = instantiate(benchmark.morphable_model).triangles if "morphable_model" in benchmark else None
    source = Path(config["import"])
    count = len(photos) - len(import_predictions(source, output_dir, photos, triangles))
    log.info("%d predictions are in %s: evaluate them with compare=[%s:%s]", count, output_dir.absolute(),
             source.absolute().name, output_dir)  # fmt: skip


def _write_images(config: DictConfig, folder: Path) -> None:
    (benchmark,) = config.benchmarks.values()
    written = write_images(open_split(benchmark, config.paths.data_dir, num_images=config.num_images), folder)
    log.info("%d images are in %s: evaluate what a method predicts from them, %s.npz and so on, with "
             "compare=[NAME:PREDICTIONS]", len(written), folder.absolute(), written[0])  # fmt: skip


def _facts(config: DictConfig, participants: Participants) -> dict[str, str]:
    """Facts about the evaluation for the report, besides its results."""
    facts = {f"checkpoint {name}": str(path) for name, path in participants.checkpoints.items()}
    facts |= {f"predictions {name}": str(folder) for name, folder in participants.folders.items()}
    facts["data"] = str(config.paths.data_dir)
    if config.num_images is not None:
        facts["images"] = f"a quick look: at most {config.num_images} of each data set, evenly spaced"
    return facts


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    """Runs the benchmarks in the config."""
    evaluate(config)


if __name__ == "__main__":
    main()
