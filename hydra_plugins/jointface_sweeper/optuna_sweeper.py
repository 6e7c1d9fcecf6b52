"""`hydra/sweeper=optuna`: runs an Optuna study instead of a grid."""

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Searches config keys with Optuna (Akiba et al., KDD 2019). The study proposes trials, Hydra's launcher runs each
    one as a job in the folder of its number, and the job's `objective` goes back to the study.

    Args: see conf/hydra/sweeper/optuna.yaml.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None,
        objective: str,
        direction: str,
        n_trials: int,
        n_jobs: int,
        max_failures: int,
        study_name: str,
        storage: str,
        sampler: DictConfig,
        pruner: DictConfig,
    ) -> None:
        self.params, self.objective, self.direction = dict(params or {}), objective, direction
        self.n_trials, self.n_jobs, self.max_failures = n_trials, n_jobs, max_failures
        self.study_name, self.storage, self.sampler, self.pruner = study_name, storage, sampler, pruner

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.config, self.hydra_context = config, hydra_context
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.folder = Path(config.hydra.sweep.dir)
        self.reports = OmegaConf.select(config, "callbacks.trial") is not None
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs trials until the study has `n_trials` finished ones, including those of earlier sweeps.

        Raises:
            ConfigError: the search is impossible, or differs from the study's search.
            SweepError: more than `max_failures` trials failed.
        """
        self._validate_settings()
        # Every command imports this plugin at its start, so modules that only a sweep needs are imported here.
        from jointface.running.search_space import read_search_space
        from jointface.running.study import lock_folder, open_study, require_same_search

        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        space = read_search_space(self.parser.parse_overrides(overrides))
        self.validate_batch_is_legal([space.overrides(space.example())])
        with lock_folder(self.folder):
            OmegaConf.save(self.config, self.folder / "multirun.yaml")
            study = open_study(self.storage, self.study_name, self.direction)
            settings = [f"hydra.sweep.dir={self.folder}", f"hydra.sweeper.objective={self.objective}"]
            require_same_search(study, list(space.ranges.values()), settings + list(space.fixed.values()))
            seed = self.sampler.get("seed")  # a resumed sweep must not repeat the samples of the first trials
            seeded = {} if seed is None else {"seed": seed + len(study.trials)}
            study.sampler, study.pruner = instantiate(self.sampler, **seeded), instantiate(self.pruner)
            try:
                self._search(study, space)
            except (KeyboardInterrupt, SystemExit):
                # Not logged: the log file may have been removed with the run's folder.
                print("stopped; to resume the study, repeat its command", file=sys.stderr)
                raise
            self._report(study)

    def _validate_settings(self) -> None:
        from jointface.errors import ConfigError
        from jointface.settings import LARGEST_SEED, require_whole_number

        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("a search needs Optuna, which is not installed: pip install 'jointface[sweep]'")
        for name, least in {"n_trials": 1, "n_jobs": 1, "max_failures": 0}.items():
            require_whole_number(f"hydra.sweeper.{name}", getattr(self, name), least)
        if (seed := self.sampler.get("seed")) is not None:
            require_whole_number("hydra.sweeper.sampler.seed", seed, 0, LARGEST_SEED)

    def _search(self, study: Any, space: Any) -> None:
        from jointface.errors import SweepError
        from jointface.running.study import finished, interrupted

        failures: list[str] = []
        for trial in interrupted(study, space.searched):
            log.info("Resuming trial %d, which was interrupted", trial.number)
            failures += self._run(study, space, [trial], "checkpoint=auto")
        while (left := self.n_trials - finished(study)) > 0:
            trials = [study.ask(dict(space.searched)) for _ in range(min(self.n_jobs, left))]
            failures += self._run(study, space, trials)
            if len(failures) > self.max_failures:
                raise SweepError(
                    f"{len(failures)} failed trials, more than hydra.sweeper.max_failures={self.max_failures}; last "
                    f"failure: {failures[-1]}; fix it and repeat the command to resume"
                )

    def _run(self, study: Any, space: Any, trials: list[Any], *more: str) -> list[str]:
        """Runs trials with consecutive numbers in parallel; returns the reasons of those that failed."""
        from jointface.running.study import outcome, tell, write_table

        table = self.folder / "trials.csv", study, space.searched, self.objective
        write_table(*table)
        jobs = [space.overrides(trial.params) for trial in trials]
        for job, trial in zip(jobs, trials, strict=True):
            # If the config has a trial report, this override makes the run report as this trial.
            job += [f"callbacks.trial.number={trial.number}"] * self.reports + list(more)
        results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        failures = [tell(study, trial, job, self.objective) for trial, job in zip(trials, results, strict=True)]
        write_table(*table)
        for trial in trials:
            log.info("%s", outcome(study.trials[trial.number], self.objective))
        return [failure for failure in failures if failure is not None]

    def _report(self, study: Any) -> None:
        from jointface.running.study import finished

        try:
            best = study.best_trial
        except ValueError:
            log.info("%d trials, none ran to the end; see %s", finished(study), self.folder)
            return
        log.info(
            "%d trials; the best, %s, has %s = %.6g with: %s",
            finished(study), self.folder / str(best.number), self.objective, best.value,
            " ".join(f"{key}={value}" for key, value in best.params.items()),
        )  # fmt: skip
        log.info("All of them: %s, python -m jointface.summarize %s", self.folder / "trials.csv", self.folder)
