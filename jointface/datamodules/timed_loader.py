"""How long a training waits for its data."""

import time
from typing import Any

from lightning.pytorch.utilities import CombinedLoader


class TimedLoader(CombinedLoader):
    """A CombinedLoader that adds up the seconds that its user has waited for mini-batches, in `seconds_waited`.

    Lightning asks for a mini-batch one step ahead; it waits for it here all the same. `latest` is the last that it got.
    """

    seconds_waited = 0.0
    latest: Any = None

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            following = super().__next__()
            self.latest = following[0]
            return following
        finally:
            self.seconds_waited += time.perf_counter() - start
