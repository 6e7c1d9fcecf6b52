"""What a run is called on a dashboard."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

LONGEST_NAME = 128  # characters that W&B takes


def job_name(name: str) -> str:
    """Of a sweep's job the overrides that not all of its jobs have, of another run `name`."""
    folder = sweep_folder()
    if folder is None:
        return name
    shared, bookkeeping = _shared_overrides(folder), ("callbacks.trial.", "checkpoint=")
    given = HydraConfig.get().overrides.task
    own = [override for override in given if override not in shared and not override.startswith(bookkeeping)]
    return (",".join(own) or name)[:LONGEST_NAME]


def _shared_overrides(folder: Path) -> set[str]:
    """What all jobs of a sweep are given, as Hydra passes it on to them."""
    sweep = folder / "multirun.yaml"
    if not sweep.is_file():  # of a sweeper that does not leave Hydra's record
        return set()
    hydra = OmegaConf.load(sweep).hydra
    given = [*(f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()), *hydra.overrides.task]
    return {
        f"{override.get_key_element()}={override.get_value_element_as_str()}"
        for override in OverridesParser.create().parse_overrides(given)
        if not override.is_sweep_override()
    }


def sweep_folder() -> Path | None:
    """The folder of the sweep that this run is a job of, None if it is of none."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir)


def choices() -> list[str]:
    """The experiment, scale and sweep that the command chose."""
    if not HydraConfig.initialized():
        return []
    made = HydraConfig.get().runtime.choices
    return [made[group] for group in ("experiment", "scale", "sweep") if made.get(group)]


def earlier_run(folder: Path) -> str | None:
    """The id of the last run that W&B recorded in a folder, which training goes on in; None if there is none."""
    recorded = sorted(path.name.removeprefix("offline-") for path in (folder / "wandb").glob("*run-*-*"))
    return recorded[-1].rpartition("-")[2] if recorded else None
