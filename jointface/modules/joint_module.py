"""Joint training: one backbone pass over a mixed batch, in which each sample trains the heads for its labels."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from jointface.attributes import LabelSet, Vocabulary
from jointface.errors import CheckpointError, ConfigError, DataError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules import checkpoint as checkpoints
from jointface.modules import optimizer_state
from jointface.modules.auxiliary import AuxiliaryLoss
from jointface.modules.coefficient_prior import CoefficientPrior
from jointface.modules.compilation import MODES, compile_layers, require_compiler
from jointface.modules.distributed import is_distributed, mean_over_processes, samples_per_process
from jointface.modules.foreign_labels import Extent
from jointface.modules.landmark_supervision import Contour
from jointface.modules.losses import attribute_loss, landmark_likelihood_loss
from jointface.modules.network import FaceNetwork, build_network
from jointface.modules.schedule import optimizer_and_schedule
from jointface.modules.shape_decoders import MorphableDecoder, ShapeDecoder
from jointface.modules.shape_supervision import Outputs, Part, ShapeSupervision, by_source, joined
from jointface.modules.source_metrics import SourceMetrics
from jointface.modules.task_gradients import gradient_statistics, require_separable_gradients
from jointface.modules.teacher import Teacher
from jointface.modules.warm_start import copy_weights
from jointface.modules.weighting import AggregatedGradients, FixedWeights
from jointface.settings import require_whole_number

log = logging.getLogger(__name__)

UNDEFINED = {"shape": "no 3D face", "attributes": "one class only of each attribute"}  # why a task has no error

Batch = dict[str, Part]  # by source


class JointFaceModule(LightningModule):
    """Trains a `FaceNetwork` on batches {source: part} with any mixture of labels.

    Args:
        network: plain config of the network, see `build_network`; it is saved in checkpoints.
        loss: combines the losses of the tasks.
        optimizer: builds the optimiser from parameter groups.
        scheduler: builds a step-wise schedule from the optimiser and the number of steps; None: a constant rate.
        label_sets, alpha: label set and negatives per positive of each training source that labels attributes.
        morphable_model: the model of shape labels and predictions; None without a shape decoder.
        contour, landmark_weight, part_weights, label_models, foreign_labels, rms: see `ShapeSupervision`.
        detach_points: whether the loss of the landmarks' uncertainty teaches standard deviations alone. If not, its
            gradient also moves the points, and L_shape is no longer the only loss of the geometry.
        prior_weight: factor of L_prior of `CoefficientPrior` in the total.
        auxiliary: builds an `AuxiliaryLoss` from the shape decoder and the people in the training; None: none.
        teacher: builds a `Teacher` of the network; None: none.
        weights: checkpoint of a network to start from, see `copy_weights`; None: random weights.
        people: the numbers of the people in each training source that the auxiliary loss uses.
        shuffle_attributes: whether each photo is trained with the attributes of another one in its mini-batch of at
            least two: a control that shows what is due to the attributes themselves.
        log_gradients_every_n_steps: interval at which the tasks' gradients on the backbone are measured; 0: never.
        compile_mode: mode of torch.compile, see `compile_layers`; None: no compilation.

    Raises:
        ConfigError: the network's parts do not fit together, or a setting is out of range.
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
        contour: Contour = "slide",
        landmark_weight: float = 1.0,
        part_weights: Mapping[str, float] | None = None,
        label_models: Mapping[str, MorphableModel] | None = None,
        foreign_labels: Extent = "dense",
        rms: bool = False,
        detach_points: bool = True,
        prior_weight: float = 0.0,
        auxiliary: Callable[[ShapeDecoder | None, Tensor], AuxiliaryLoss] | None = None,
        people: Mapping[str, Int[Tensor, "people"]] | None = None,
        shuffle_attributes: bool = False,
        log_gradients_every_n_steps: int = 0,
        compile_mode: str | None = None,
        teacher: Callable[[FaceNetwork], Teacher] | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        require_whole_number("model.log_gradients_every_n_steps", log_gradients_every_n_steps, 0)
        if compile_mode not in (None, *MODES):
            raise ConfigError(f"model.compile={compile_mode} is unknown; choose from false, true, {', '.join(MODES)}")
        self.weighting, self.make_optimizer, self.make_scheduler = loss, optimizer, scheduler
        self.log_gradients_every_n_steps, self.compile_mode = log_gradients_every_n_steps, compile_mode
        self.label_sets = dict(label_sets)
        self.vocabulary = Vocabulary(label_sets.values())
        attributes = self.vocabulary.attributes if network["attribute_classifier"] is not None else ()
        self.network_config = dict(network)
        self.network = build_network(network, attributes, morphable_model)
        if weights is not None:
            copy_weights(self.network, weights)
        decoder = self.network.shape_decoder
        self.shape_supervision = (
            None
            if decoder is None
            else ShapeSupervision(decoder, contour, landmark_weight, part_weights, label_models, foreign_labels, rms)
        )
        self.rms, self.detach_points, self.prior = rms, detach_points, None
        if prior_weight:
            loss.add("prior", prior_weight, "model.prior_weight")
            if not isinstance(decoder, MorphableDecoder):
                raise ConfigError("model.prior_weight needs model/shape_decoder=morphable, which predicts coefficients")
            self.prior = CoefficientPrior(decoder)
        self.people, self.shuffle_attributes = dict(people or {}), shuffle_attributes
        everybody = torch.cat([torch.zeros(0, dtype=torch.int64), *self.people.values()]).unique()
        self.auxiliary = None if auxiliary is None else auxiliary(decoder, everybody)
        self.teacher = None if teacher is None else teacher(self.network)
        if self.teacher is not None:
            loss.add("teacher", self.teacher.weight, "model.teacher.weight")
        self.network.label_sets = {
            name: {"label_set": labels.name, "attributes": list(labels.attributes), "alpha": alpha[name].tolist()}
            for name, labels in label_sets.items()
        }
        for name, labels in label_sets.items():
            self.register_buffer(f"alpha_{name}", alpha[name].float(), persistent=False)
            self.register_buffer(f"positions_{name}", self.vocabulary.positions(labels), persistent=False)
        self.source_metrics = SourceMetrics(label_sets, alpha, self.vocabulary)
        self.shared: list[Parameter] = []  # trained parameters of the backbone
        self.own: list[Parameter] = []  # all other trained parameters
        # Lightning passes only the scaled total loss from `training_step` to `backward`. The unscaled total and the
        # losses of the tasks are kept here in between.
        self.in_flight: tuple[Tensor, dict[str, Tensor]] | None = None

    # Configuration

    def setup(self, stage: str) -> None:
        """Prepares the training, and the metrics for the split that the stage evaluates.

        Raises:
            ConfigError: the trainer cannot train as the config demands.
        """
        if stage == "fit":
            self._configure_training()
        if (split := {"fit": "val", "validate": "val", "test": "test"}.get(stage)) is not None:
            self.source_metrics.configure(split, self.trainer.datamodule, self.network)  # type: ignore[attr-defined]
        # In distributed training, only statistics over batches have to be exchanged. All other buffers are constant or
        # follow from losses averaged over the processes. DDP has no public setting for this.
        statistics = {"running_mean", "running_var", "running_square", "num_batches_tracked"}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self, [name for name, _ in self.named_buffers() if name.rsplit(".", 1)[-1] not in statistics]
        )

    def _configure_training(self) -> None:
        backbone = set(self.network.backbone.parameters())
        self.shared = [parameter for parameter in self._trained() if parameter in backbone]
        self.own = [parameter for parameter in self._trained() if parameter not in backbone]
        if isinstance(self.weighting, AggregatedGradients) or self.log_gradients_every_n_steps:
            require_separable_gradients(self.trainer.strategy)
        if self.compile_mode is not None:
            require_compiler(self.trainer.strategy.root_device)
            compile_layers(self.network, self.compile_mode)

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self._trained(), self.make_optimizer, self.make_scheduler, self)

    def _trained(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # Losses

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L_shape and L_attr of a mixed batch, for the heads that the network has; zero if no sample has the labels.
        L_aux is the sum of the auxiliary loss over the sources whose people are known. The loss of the landmarks'
        uncertainty covers the samples of L_shape, that of the teacher all samples.

        In distributed training, the mean of each loss over the processes is the loss over all their samples, except
        that each process averages L_aux over its own photos.
        """
        shaped = {name: part for name, part in batch.items() if "camera" in part or "landmark_mask" in part}
        described = {name: part for name, part in batch.items() if "attributes" in part}
        counts = [sum(len(part["image"]) for part in parts.values()) for parts in (shaped, described, batch)]
        of_shape, of_attributes, of_all = samples_per_process(counts, self.device)
        features, of_source = self._features(batch)
        # Each head runs once: on all samples if it has a teacher, else on those that have its labels.
        taught = () if self.teacher is None else self.teacher.taught
        outputs: dict[str, Outputs] = {}
        losses: dict[str, Tensor] = {}
        further: dict[str, Tensor] = {}  # behind L_shape and L_attr, whose gradients are compared
        if (decoder := self.network.shape_decoder) is not None:
            assert self.shape_supervision is not None
            outputs["shape"] = faces = _outputs(decoder.outputs, of_source, batch if "shape" in taught else shaped)
            uncertainty = self.network.landmark_uncertainty
            if shaped:
                marked = self.shape_supervision.marked(decoder, faces, shaped)
                losses["shape"] = self.shape_supervision(decoder, faces, shaped, marked, of_shape)
                if self.prior is not None:
                    further["prior"] = self._prior_loss(self.prior, faces, shaped, of_shape)
                if uncertainty is not None:
                    predicted, truth, mask = self.shape_supervision.landmarks(decoder, faces, shaped, marked)
                    predicted = predicted.detach() if self.detach_points else predicted
                    sigma = uncertainty(torch.cat([of_source[name] for name in shaped]))
                    likelihood = landmark_likelihood_loss(predicted, truth, sigma, mask, of_shape)
                    further["landmark_uncertainty"] = likelihood
            else:
                losses["shape"] = _zero_loss(features, decoder, has_run=bool(faces))
                if self.prior is not None:
                    further["prior"] = 0 * losses["shape"]
                if uncertainty is not None:
                    further["landmark_uncertainty"] = _zero_loss(features, uncertainty)
        if (classifier := self.network.attribute_classifier) is not None:
            seen = batch if "attributes" in taught else described
            outputs["attributes"] = logits = _outputs(lambda rows: [classifier(rows).float()], of_source, seen)
            if described:
                losses["attributes"] = self._attribute_loss(logits, described, of_attributes)
            else:
                losses["attributes"] = _zero_loss(features, classifier, has_run=bool(logits))
        if self.auxiliary is not None:
            further["auxiliary"] = self._auxiliary_loss(self.auxiliary, features, of_source, batch)
        if self.teacher is not None:
            of_tasks = losses  # without samples these are zero, and those of the teacher, too
            if batch:
                images = torch.cat([part["image"] for part in batch.values()])
                predictions = {task: joined(outputs[task], batch) for task in taught}
                of_tasks = self.teacher.losses(self.network, predictions, images, of_all, rms=self.rms)
            further["teacher"] = torch.stack([self.weighting.fixed[task] * of_tasks[task] for task in taught]).sum()
        return losses | further

    def _features(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The features from one backbone pass over all images, and the part that belongs to each source."""
        size = self.network.image_size
        none = torch.empty(0, 3, size, size, dtype=torch.uint8, device=self.device)
        features = self.network.features(torch.cat([none, *(part["image"] for part in batch.values())]))
        counts = [len(part["image"]) for part in batch.values()]
        return features, dict(zip(batch, features.split(counts), strict=True)) if counts else {}

    def _attribute_loss(self, logits: Outputs, batch: Batch, samples: Tensor | int) -> Tensor:
        columns = zip(*(self._in_vocabulary(name, part) for name, part in batch.items()), strict=True)
        labels, mask, alpha = (torch.cat(column) for column in columns)
        if self.shuffle_attributes:  # by half a mini-batch, so that photos of one person do not get each other's
            labels, mask, alpha = (column.roll(len(column) // 2, dims=0) for column in (labels, mask, alpha))
        (predicted,) = joined(logits, batch)
        return attribute_loss(predicted, labels, mask, alpha, samples)

    def _prior_loss(self, prior: CoefficientPrior, faces: Outputs, batch: Batch, samples: Tensor | int) -> Tensor:
        for name, part in batch.items():
            if "camera" in part and self._label_model_is_own(name):
                prior.observe(torch.cat([part["shape_coefficients"], part["expression_coefficients"]], dim=1))
        shape, expression, _ = joined(faces, batch)
        return prior(torch.cat([shape, expression], dim=1), samples)

    def _auxiliary_loss(
        self, auxiliary: AuxiliaryLoss, features: Tensor, of_source: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        decoder = self.network.shape_decoder
        assert isinstance(decoder, ShapeDecoder)
        known = {name: part for name, part in batch.items() if name in self.people}
        fitted = [part for name, part in batch.items() if "camera" in part and self._label_model_is_own(name)]
        if fitted:
            auxiliary.observe(torch.cat([part["shape_coefficients"] for part in fitted]))
        if not known:
            return _zero_loss(features, decoder) + _zero_loss(features, auxiliary)
        outputs = _outputs(decoder.outputs, of_source, known)
        return torch.stack([
            auxiliary(outputs[name], part["identity"], part if self._label_model_is_own(name) else {})
            for name, part in known.items()
        ]).sum()  # fmt: skip

    def _label_model_is_own(self, source: str) -> bool:
        """Whether the coefficients of a source, if it has any, refer to the decoder's model."""
        assert self.shape_supervision is not None
        return source not in self.shape_supervision.foreign_labels

    def _in_vocabulary(self, source: str, part: Part) -> list[Tensor]:
        """Labels, mask and alpha of a source's samples, scattered into the union vocabulary."""
        labels, positions = part["attributes"], getattr(self, f"positions_{source}")
        alpha = getattr(self, f"alpha_{source}").expand_as(labels)
        return [
            values.new_zeros(len(labels), len(self.vocabulary)).index_copy(1, positions, values)
            for values in (labels, part["attribute_mask"], alpha)
        ]

    # Training step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if not batch and not is_distributed():  # other processes would wait for a process that skips a step
            return None
        try:
            losses = self.losses(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"step {self.global_step}: batch norm needs at least two faces, and only one of the mini-batch could "
                "be read: raise batch_size"
            ) from error
        means = dict(zip(losses, mean_over_processes(torch.stack(list(losses.values()))).unbind(), strict=True))
        total = self.weighting(losses, means, self.global_step)
        self.log_dict({f"train/loss_{task}": mean for task, mean in means.items()}, prog_bar=True, batch_size=1)
        self.log("train/loss", mean_over_processes(total), batch_size=1)
        if self.weighting.varies:
            weights = self.weighting.weights()
            self.log_dict({f"train/weight_{task}": weights[task] for task in losses}, batch_size=1)
        self.in_flight = total, losses
        return total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lets the weighting compute the gradients. Every `log_gradients_every_n_steps`, it also measures the gradient
        of each task on the backbone."""
        assert self.in_flight is not None
        (total, losses), self.in_flight = self.in_flight, None
        every = self.log_gradients_every_n_steps
        if every and (self.global_step + 1) % every == 0 and len(losses) > 1:
            statistics = gradient_statistics(loss, total, losses, self.shared)
            self.log_dict({f"train/{name}": value for name, value in statistics.items()}, batch_size=1)
        self.weighting.backward(loss, losses, self.shared, self.own)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.weighting.end_step()

    # Evaluation step

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, split: str, batch: Batch) -> None:
        if not batch:
            return
        _, of_source = self._features(batch)
        for name, part in batch.items():
            self.source_metrics.update(f"{split}/{name}", of_source[name], part, self.network, self.shape_supervision)

    def label_model(self, source: str) -> MorphableModel:
        """The model of a source's coefficients, on the vertices of the decoder's model."""
        assert self.network.shape_decoder is not None
        assert self.shape_supervision is not None
        return self.shape_supervision.label_model(self.network.shape_decoder, source)

    def on_validation_epoch_end(self) -> None:
        """Also logs `val/error`, which selects the best checkpoint. It is the mean NME of the landmarks in 2D (the
        inner ones of hand-marked sources) plus the mean of 1 - balanced accuracy, each averaged over the sources that
        have it; NaN if no source has one of the two that are measured, for example because every attribute shows one
        class."""
        errors: dict[str, list[Tensor]] = {}
        for key, values in self._log_metrics("val").items():
            task = key.rsplit("/", 1)[1]
            if task not in UNDEFINED:
                continue
            of_task = errors.setdefault(task, [])
            of_task += [values[key] for key in ("nme_2d_68", "nme_inner_51") if key in values]
            if "balanced_accuracy" in values:
                of_task.append(1 - values["balanced_accuracy"])
        undefined = torch.full((), torch.nan, device=self.device)
        means = [torch.stack(found).mean() if found else undefined for found in errors.values()] or [undefined]
        if lacking := [UNDEFINED[task] for task, found in errors.items() if not found]:
            log.warning("val/error is undefined: validation saw %s", " and ".join(lacking))
        self.log("val/error", torch.stack(means).sum(), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> dict[str, dict[str, Tensor]]:
        """Logs and returns all metrics of a split, by split/source[/trivial]/task.

        Lightning takes a millisecond to log a value, and there are hundreds that belong to single attributes. They go
        to callbacks and loggers directly.
        """
        results, trainer = self.source_metrics.compute(split), self.trainer
        means: dict[str, Tensor] = {}
        single: dict[str, Tensor] = {}
        for key, values in results.items():
            prefix = key.rsplit("/", 1)[0]
            for name, value in values.items():
                (single if "/" in name else means)[f"{prefix}/{name}"] = value
        self.log_dict(means)
        trainer.callback_metrics.update(single)
        if single and not trainer.sanity_checking:
            numbers = torch.stack([value.float() for value in single.values()]).tolist()
            step = trainer.fit_loop.epoch_loop._batches_that_stepped  # under which Lightning logs the means
            for logger in trainer.loggers:
                logger.log_metrics(dict(zip(single, numbers, strict=True)), step)
        return results

    # Checkpoint

    @cached_property
    def description(self) -> dict[str, Any]:
        """The network's description for checkpoints; cached because it hashes the morphable model."""
        return checkpoints.describe(self.network, self.network_config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = self.description
        checkpoint[optimizer_state.KEY] = optimizer_state.describe(self.make_optimizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives the checkpoint's optimiser the settings of the config.

        Raises:
            CheckpointError: the checkpoint has another model, weighting or optimiser than the config.
        """
        if self.network.shape_decoder is not None:
            checkpoints.adopt_rounding(checkpoint, self.network.shape_decoder.morphable_model)
        checkpoints.require_same_model(checkpoint, self.description)
        own = self.state_dict()
        choices = {"weighting": "model/loss", "auxiliary": "model/auxiliary", "prior": "model.prior_weight"}
        for part, choice in choices.items():
            shapes = [
                {
                    key: tensor.shape
                    for key, tensor in state.items()
                    if key.startswith(f"{part}.") and torch.is_tensor(tensor)
                }
                for state in (checkpoint["state_dict"], own)
            ]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the checkpoint was trained with another choice of {choice} than the config's, or with other "
                    "people: repeat the overrides of its run, which are in its .hydra/overrides.yaml, or train from "
                    "the start"
                )
        if "optimizer_states" in checkpoint:
            optimizer_state.adopt_settings(checkpoint, self.make_optimizer, self.make_scheduler is not None)


def _outputs(
    run: Callable[[Tensor], Sequence[Tensor]], features: Mapping[str, Tensor], batch: Batch
) -> dict[str, tuple[Tensor, ...]]:
    """The outputs of a head by source, from one pass over the samples of a batch; empty if it has none."""
    return by_source(run(torch.cat([features[name] for name in batch])), batch) if batch else {}


def _zero_loss(features: Tensor, head: nn.Module, has_run: bool = False) -> Tensor:
    """Zero, computed from the backbone and every parameter of an unused head, as distributed training requires.

    With synchronised batch norm, the head runs on zero rows unless it has run, because processes with labelled samples
    wait for this one.
    """
    parts = [part[:0] for part in (features, *head.parameters())]
    if not has_run and any(isinstance(part, nn.SyncBatchNorm) for part in head.modules()):
        parts.append(head(features[:0]))
    return torch.stack([part.sum().float() for part in parts]).sum()
