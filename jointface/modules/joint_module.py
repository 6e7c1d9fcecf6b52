"""The joint training: one backbone pass over the mixed batch, each sample teaching what it is labelled for."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics import Metric

from jointface.attributes import LabelSet, Vocabulary
from jointface.errors import CheckpointError, ConfigError
from jointface.geometry.camera import pose_from_camera
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.nme import FaceNME
from jointface.modules import checkpoint as checkpoints
from jointface.modules import optimizer_state
from jointface.modules.compilation import compile_layers, require_compiler, require_mode
from jointface.modules.distributed import is_distributed, mean_over_processes, samples_per_process
from jointface.modules.losses import attribute_loss, shape_loss
from jointface.modules.network import build_network
from jointface.modules.shape_decoders import ShapeDecoder, frontal_face
from jointface.modules.task_gradients import gradient_statistics, require_whole_gradients
from jointface.modules.weighting import FixedWeights, PCGrad

Batch = dict[str, dict[str, Tensor]]  # {source name: batch of the data contract}


class JointFaceModule(LightningModule):
    """Trains a `FaceNetwork` on batches {source: batch} with any mixture of labels.

    Args:
        network: plain config of the network, see `build_network`; it travels in the checkpoint.
        loss: how the tasks' losses become one.
        optimizer: makes the optimiser from parameter groups.
        scheduler: makes a step-wise schedule from the optimiser and the number of steps; None keeps the rate.
        label_sets: of the training sources that label attributes, by source.
        alpha: negatives per positive of each of them, by source.
        morphable_model: what shape labels and predictions refer to; None without a shape decoder.
        log_gradients_every_n_steps: steps between measurements of the tasks' gradients on the backbone; 0 for never.
        compile_mode: of torch.compile, see `compile_layers`; None trains without.

    Raises:
        ConfigError: the network's parts do not fit together, or a number or mode is not one.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        loss: FixedWeights,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Any] | None,
        label_sets: Mapping[str, LabelSet],
        alpha: Mapping[str, Float[Tensor, "attributes"]],
        morphable_model: MorphableModel | None = None,
        log_gradients_every_n_steps: int = 0,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        if log_gradients_every_n_steps < 0:
            raise ConfigError(f"model.log_gradients_every_n_steps={log_gradients_every_n_steps}: must be at least 0")
        if compile_mode is not None:
            require_mode(compile_mode)
        self.weighting, self.make_optimizer, self.make_scheduler = loss, optimizer, scheduler
        self.log_gradients_every_n_steps, self.compile_mode = log_gradients_every_n_steps, compile_mode
        self.label_sets = dict(label_sets)
        self.vocabulary = Vocabulary.union(label_sets.values())
        attributes = self.vocabulary.attributes if network["attribute_classifier"] is not None else ()
        self.network_config = dict(network)
        self.network = build_network(network, attributes, morphable_model)
        self.network.label_sets = {
            name: {"label_set": labels.name, "attributes": list(labels.attributes), "alpha": alpha[name].tolist()}
            for name, labels in label_sets.items()
        }
        for name, labels in label_sets.items():
            self.register_buffer(f"alpha_{name}", alpha[name].float(), persistent=False)
            self.register_buffer(f"positions_{name}", self.vocabulary.positions(labels), persistent=False)
        self.metrics = nn.ModuleDict()
        self.teachers: dict[str, str] = {}  # for each source with attributes, the training source of its label set
        self.pending: tuple[Tensor, dict[str, Tensor]] | None = None  # total and losses on their way to `backward`
        self.shared: list[Parameter] = []  # the trained parameters of the backbone
        self.own: list[Parameter] = []  # all others

    # One mixed batch

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`shape` and `attributes` losses of a mixed batch; zero where no sample carries the label.

        In a distributed training the mean over the processes of each is the loss of all their samples together.
        """
        counts = [sum(len(part["image"]) for part in batch.values() if key in part) for key in ("camera", "attributes")]
        of_shape, of_attributes = samples_per_process(counts, self.device)
        features, rows = self._features(batch)
        losses = {
            "shape": self._shape_loss(features, rows, batch, of_shape),
            "attributes": self._attribute_loss(features, rows, batch, of_attributes),
        }
        return {name: loss for name, loss in losses.items() if loss is not None}

    def _features(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One backbone pass over all images, and the rows of it that each source fills."""
        counts = [len(part["image"]) for part in batch.values()]
        rows = torch.arange(sum(counts), device=self.device).split(counts)
        size = self.network.image_size
        nothing = torch.empty(0, 3, size, size, dtype=torch.uint8, device=self.device)
        features = self.network.features(torch.cat([nothing, *(part["image"] for part in batch.values())]))
        return features, dict(zip(batch, rows, strict=True))

    def _shape_loss(
        self, features: Tensor, rows: dict[str, Tensor], batch: Batch, samples: Tensor | int
    ) -> Tensor | None:
        decoder = self.network.shape_decoder
        if decoder is None:
            return None
        labelled = [name for name, part in batch.items() if "camera" in part]
        if not labelled:
            return _zero_loss(features, decoder)
        keys = ("shape_coefficients", "expression_coefficients", "camera")
        predicted = decoder(features[torch.cat([rows[name] for name in labelled])])
        target = decoder.target(*(torch.cat([batch[name][key] for name in labelled]) for key in keys))
        return shape_loss(predicted, target, decoder.weights, samples)

    def _attribute_loss(
        self, features: Tensor, rows: dict[str, Tensor], batch: Batch, samples: Tensor | int
    ) -> Tensor | None:
        classifier = self.network.attribute_classifier
        if classifier is None:
            return None
        labelled = [name for name, part in batch.items() if "attributes" in part]
        if not labelled:
            return _zero_loss(features, classifier)
        logits = classifier(features[torch.cat([rows[name] for name in labelled])]).float()
        labels, mask, alpha = (
            torch.cat(columns) for columns in zip(*(self._in_vocabulary(n, batch[n]) for n in labelled), strict=True)
        )
        return attribute_loss(logits, labels, mask, alpha, samples)

    def _in_vocabulary(self, source: str, part: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, mask and alpha of a source's samples, laid out in the union vocabulary."""
        positions = getattr(self, f"positions_{source}")
        shape = (len(part["attributes"]), len(self.vocabulary))

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(shape).index_copy(1, positions, values)

        alpha = getattr(self, f"alpha_{source}").expand(len(part["attributes"]), -1)
        return spread(part["attributes"]), spread(part["attribute_mask"]), spread(alpha)

    # Lightning's steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if not batch and not is_distributed():  # of several processes none may leave the others waiting
            return None
        losses = self.losses(batch)
        together = mean_over_processes(torch.stack(list(losses.values()))).unbind()
        means = dict(zip(losses, together, strict=True))
        self.weighting.observe(means, self.global_step)
        total = self.weighting(losses, means)
        self.log_dict({f"train/loss_{name}": loss for name, loss in means.items()}, prog_bar=True, batch_size=1)
        self.log("train/loss", mean_over_processes(total), batch_size=1)
        if self.weighting.varies:
            weights = self.weighting.weights()
            self.log_dict({f"train/weight_{name}": weights[name] for name in losses}, batch_size=1)
        self.pending = total, losses
        return total

    def on_before_backward(self, loss: Tensor) -> None:
        """Now and then measures what each task asks of the backbone."""
        assert self.pending is not None
        total, losses = self.pending
        every = self.log_gradients_every_n_steps
        if every and (self.global_step + 1) % every == 0 and len(losses) > 1:
            statistics = gradient_statistics(loss, total, losses, self.shared)
            self.log_dict({f"train/{name}": value for name, value in statistics.items()}, batch_size=1)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The weighting's way from the loss to the gradients."""
        assert self.pending is not None
        _, losses = self.pending
        self.pending = None
        self.weighting.backward(loss, losses, self.shared, self.own)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.weighting.end_step()

    def setup(self, stage: str) -> None:
        """Makes the metrics of the sources that the stage evaluates; the test also scores the trivial predictors.

        Raises:
            ConfigError: the trainer cannot train in the way that the config asks for.
        """
        if stage == "fit":
            self._prepare_training()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        for split in {"fit": ["val"], "validate": ["val"], "test": ["test"]}.get(stage, []):
            self.teachers |= self._teachers(data.label_sets(split))
            for name in data.datasets[split]:
                for predictor in ("", "trivial/") if split == "test" else ("",):
                    if self.network.shape_decoder is not None and name in data.shape_sources(split):
                        self.metrics[f"{split}/{name}/{predictor}shape"] = FaceNME()
                    if self.network.attribute_classifier is not None and name in self.teachers:
                        teacher = self.teachers[name]
                        attributes, alpha = self.label_sets[teacher].attributes, getattr(self, f"alpha_{teacher}").cpu()
                        self.metrics[f"{split}/{name}/{predictor}attributes"] = AttributeMetrics(attributes, alpha)
        # The statistics of batch norm are all that distributed training has to exchange: other buffers are constants,
        # or follow from losses that are those of all processes.
        statistics = {"running_mean", "running_var", "num_batches_tracked"}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self, [name for name, _ in self.named_buffers() if name.rsplit(".", 1)[-1] not in statistics]
        )

    def _prepare_training(self) -> None:
        trained = {id(parameter): parameter for parameter in self.parameters() if parameter.requires_grad}
        backbone = {id(parameter) for parameter in self.network.backbone.parameters()}
        self.shared = [parameter for key, parameter in trained.items() if key in backbone]
        self.own = [parameter for key, parameter in trained.items() if key not in backbone]
        if isinstance(self.weighting, PCGrad) or self.log_gradients_every_n_steps:
            require_whole_gradients(self.trainer.strategy)
        if self.compile_mode is not None:
            require_compiler(self.trainer.strategy.root_device)
            compile_layers(self.network, self.compile_mode)

    def _teachers(self, label_sets: Mapping[str, LabelSet]) -> dict[str, str]:
        """For each source the training source that its attributes were learned from: itself, or one that labels the
        same ones."""
        teachers = {}
        for name, labels in label_sets.items():
            same = [name] if name in self.label_sets else [n for n, known in self.label_sets.items() if known == labels]
            teachers.update({name: same[0]} if same else {})
        return teachers

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(
            [
                {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
                {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        if self.make_scheduler is None:
            return optimizer
        schedule = self.make_scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Evaluation

    def _evaluate(self, split: str, batch: Batch) -> None:
        if not batch:
            return
        features, rows = self._features(batch)
        for name, part in batch.items():
            decoder, classifier = self.network.shape_decoder, self.network.attribute_classifier
            if decoder is not None and f"{split}/{name}/shape" in self.metrics:
                self._measure_shape(f"{split}/{name}", decoder, features[rows[name]], part)
            if classifier is not None and f"{split}/{name}/attributes" in self.metrics:
                logits = classifier(features[rows[name]]).float()[:, getattr(self, f"positions_{self.teachers[name]}")]
                self._measure_attributes(f"{split}/{name}", logits, part)

    def _measure_shape(self, prefix: str, decoder: ShapeDecoder, features: Tensor, part: dict[str, Tensor]) -> None:
        model = decoder.morphable_model
        landmarks, vertices = true_face(model, part)
        yaw = pose_from_camera(part["camera"], self.network.image_size)[:, 1].rad2deg()
        predictions = {"": decoder.vertices(decoder(features))}
        if f"{prefix}/trivial/shape" in self.metrics:
            predictions["trivial/"] = frontal_face(model, self.network.image_size).expand_as(vertices)
        face = model.face_region
        for predictor, predicted in predictions.items():
            metric = cast(FaceNME, self.metrics[f"{prefix}/{predictor}shape"])
            metric.update(predicted[:, model.landmarks68], landmarks, predicted[:, face], vertices[:, face], yaw)

    def _measure_attributes(self, prefix: str, logits: Tensor, part: dict[str, Tensor]) -> None:
        predictions = {"": logits}
        if f"{prefix}/trivial/attributes" in self.metrics:
            predictions["trivial/"] = torch.zeros_like(logits)  # calibrated: the majority class
        for predictor, predicted in predictions.items():
            metric = cast(AttributeMetrics, self.metrics[f"{prefix}/{predictor}attributes"])
            metric.update(predicted, part["attributes"], part["attribute_mask"])

    def _log_metrics(self, split: str) -> None:
        """Logs `split/source/metric`, and `val/error`, which chooses the best checkpoint: the sum of the tasks' errors,
        mean NME of the 68 landmarks in 2D and mean 1 - balanced accuracy."""
        errors: dict[str, list[Tensor]] = {}
        for key, metric in cast(dict[str, Metric], self.metrics).items():
            prefix, task = key.rsplit("/", 1)
            if not key.startswith(f"{split}/"):
                continue
            cast(FaceNME | AttributeMetrics, metric).update_empty()  # in gathering over the processes
            values = metric.compute()
            metric.reset()
            if not values:
                continue
            if prefix.endswith("trivial"):
                values = {name: value for name, value in values.items() if "/" not in name}
            elif task == "shape":
                errors.setdefault(task, []).append(values["nme_2d_68"])
            elif "balanced_accuracy" in values:  # undefined where no attribute shows both classes
                errors.setdefault(task, []).append(1 - values["balanced_accuracy"])
            self.log_dict({f"{prefix}/{name}": value for name, value in values.items()})
        if split == "val":
            means = [torch.stack(task).mean() for task in errors.values()]
            self.log("val/error", sum(means, torch.zeros((), device=self.device)), prog_bar=True)

    # Checkpoints

    @cached_property
    def description(self) -> dict[str, Any]:
        """See `checkpoints.describe`; made once, as it hashes the whole morphable model."""
        return checkpoints.describe(self.network, self.network_config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = self.description
        checkpoint[optimizer_state.KEY] = optimizer_state.describe(self.make_optimizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoints.require_same_model(checkpoint, self.description)
        self._require_same_weighting(checkpoint)
        if "optimizer_states" in checkpoint:
            optimizer_state.adopt_settings(checkpoint, self.make_optimizer, self.make_scheduler is not None)

    def _require_same_weighting(self, checkpoint: dict[str, Any]) -> None:
        found = {key for key in checkpoint["state_dict"] if key.startswith("weighting.")}
        if found != {f"weighting.{key}" for key in self.weighting.state_dict()}:
            raise CheckpointError(
                "the checkpoint was trained with another choice of model/loss than the config's: repeat the overrides "
                "of its run, which are in .hydra/overrides.yaml there, or train from the start"
            )


def _zero_loss(features: Tensor, head: nn.Module) -> Tensor:
    """Zero that the backbone and every parameter of an unused head take part in, as distributed training asks for.

    With batch norm over all processes the head runs, on no row: other processes may have some, and wait for this one.
    """
    parts = [part[:0] for part in (features, *head.parameters())]
    if any(isinstance(part, nn.SyncBatchNorm) for part in head.modules()):
        parts.append(head(features[:0]))
    return torch.stack([part.sum().float() for part in parts]).sum()


def true_face(model: MorphableModel, part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ground-truth landmarks (B, 68, 3) and vertices (B, V, 3) in crop space, z relative to the mean of the vertices.

    Landmarks that the data set brings itself take precedence over those rebuilt from the coefficients.
    """
    vertices = model.project(part["shape_coefficients"], part["expression_coefficients"], part["camera"])
    landmarks = part.get("landmarks68", vertices[:, model.landmarks68])
    depth = nn.functional.pad(vertices[..., 2:].mean(1, keepdim=True), (2, 0))
    return landmarks - depth, vertices - depth
