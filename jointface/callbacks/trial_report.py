"""Reports the validations of a run that is a trial of a study, and stops it if other trials were better."""

import logging
from functools import cached_property
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from jointface.errors import ConfigError, TrialPruned

log = logging.getLogger(__name__)


class TrialReport(Callback):
    """Reports the objective to an Optuna study at each validation, and ends the training if the pruner decides so.

    It looks up its trial in the storage, so the run may be in another process than the sweep.

    Args: see conf/sweep/optuna.yaml; the objective is reported over the optimiser step.
    """

    def __init__(self, study_name: str, storage: str, number: int | None, objective: str, pruner: Any) -> None:
        self.study_name, self.storage, self.number = study_name, storage, number
        self.objective, self.pruner = objective, pruner
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports and may stop the run; the first process decides for all. A test's objective comes too late."""
        if self.number is not None and self.objective in trainer.callback_metrics:
            self._report(trainer)
            self.pruned = trainer.strategy.broadcast(self.pruned)
            trainer.should_stop |= self.pruned

    @cached_property
    def _study(self) -> Any:
        import optuna  # an optional dependency

        return optuna.load_study(study_name=self.study_name, storage=self.storage, pruner=self.pruner)

    @rank_zero_only
    def _report(self, trainer: Trainer) -> None:
        from optuna import Trial

        trials, value = self._study.get_trials(deepcopy=False), trainer.callback_metrics[self.objective]
        if self.number not in range(len(trials)):
            raise ConfigError(f"the study {self.study_name} in {self.storage} has no trial {self.number}")
        frozen = trials[self.number]
        trial, step = Trial(self._study, frozen._trial_id), trainer.global_step
        if step not in frozen.intermediate_values:  # else reported before an interruption
            trial.report(value.item(), step)
        self.pruned = step < trainer.max_steps and trial.should_prune()  # pruning the last step saves nothing
        if self.pruned:
            log.info("Pruned at step %d with %s = %.6g", step, self.objective, value)


def raise_if_pruned(trainer: Trainer) -> None:
    """Raises TrialPruned if the fit was pruned."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, TrialReport) and callback.pruned:
            raise TrialPruned
