"""A run that is a trial of a study reports its validations, and stops if other trials were better."""

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from jointface.errors import ConfigError, TrialPruned

log = logging.getLogger(__name__)


class TrialReport(Callback):
    """Reports the objective to an Optuna study at each validation, and ends the training when the pruner says so.

    It finds its trial in the storage, so that the run may be in another process than the sweep.

    Args:
        study_name, storage: of the study, as in the sweep's config.
        number: of the trial in it; None reports nothing.
        objective: the logged metric to report, over the optimiser step.
        pruner: an Optuna pruner.
    """

    def __init__(self, study_name: str, storage: str, number: int | None, objective: str, pruner: Any) -> None:
        self.study_name, self.storage, self.number = study_name, storage, number
        self.objective, self.pruner = objective, pruner
        self.pruned = False
        self._trial: Any = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports and maybe stops; the first process decides for all."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.number is None or self.objective not in trainer.callback_metrics:
            return  # an objective of the test comes too late to prune by
        self._report(trainer)
        self.pruned = trainer.strategy.broadcast(self.pruned)
        trainer.should_stop |= self.pruned

    @rank_zero_only
    def _report(self, trainer: Trainer) -> None:
        self._trial = self._trial or self._find()
        value = trainer.callback_metrics[self.objective].item()
        reported = self._trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        if trainer.global_step not in reported:  # else the same run reported it before it was interrupted
            self._trial.report(value, trainer.global_step)
        # After the last step pruning would save nothing.
        self.pruned = trainer.global_step < trainer.max_steps and self._trial.should_prune()
        if self.pruned:
            log.info("Pruned at step %d with %s = %.6g", trainer.global_step, self.objective, value)

    def _find(self) -> Any:
        import optuna  # an extra, which other runs do without

        study = optuna.load_study(study_name=self.study_name, storage=self.storage, pruner=self.pruner)
        trials = study.get_trials(deepcopy=False)
        assert self.number is not None
        if self.number >= len(trials):
            raise ConfigError(f"the study {self.study_name} in {self.storage} has no trial {self.number}")
        return optuna.Trial(study, trials[self.number]._trial_id)


def raise_if_pruned(trainer: Trainer) -> None:
    """Raises TrialPruned after a fit that was pruned."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, TrialReport) and callback.pruned:
            raise TrialPruned
