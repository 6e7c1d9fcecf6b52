"""Training from files against training from memory.

`python -m bench.in_memory DATA`: the first steps of `experiment=joint_all`, with one loader process a source, from the
files of DATA and with `data.in_memory=true`.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir

from jointface.command_line import CONF_DIR
from jointface.train import train

STEPS, WARM_UP, SAMPLES = 40, 10, 600


def speeds(data: str, in_memory: bool) -> tuple[float, float]:
    """Images per second, and the fraction of the time in which the step waits for the loader."""
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        overrides = [
            "experiment=joint_all", f"paths.data_dir={data}", f"paths.run_dir={folder}", f"data.in_memory={in_memory}",
            f"data.max_train_samples={SAMPLES}", f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}",
            f"trainer.log_every_n_steps={WARM_UP}", "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=0",
            "~callbacks.figures", "~callbacks.progress_bar", "+trainer.enable_progress_bar=false", "name=bench",
        ]  # fmt: skip
        train(compose("train", overrides=overrides))
        rows = pd.read_csv(Path(folder) / "metrics.csv").query(f"step >= {WARM_UP}")
    return rows["train/images_per_second"].mean(), rows["train/loader_wait"].mean()


def main(data: str) -> None:
    """Prints both speeds and their ratio."""
    from_files, from_memory = speeds(data, in_memory=False), speeds(data, in_memory=True)
    print("experiment=joint_all, one loader process a source")
    for name, (speed, wait) in {"from files": from_files, "from memory": from_memory}.items():
        print(f"  {name:12} {speed:6.0f} images/s, {wait:.0%} of the time waiting for the loader")
    print(f"  ratio        {from_memory[0] / from_files[0]:6.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
