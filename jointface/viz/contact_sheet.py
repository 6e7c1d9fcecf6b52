"""A contact sheet of faces with their attributes, for a quick look at a generated data set."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "size size 3"]], attributes: Sequence[Sequence[str]], columns: int = 8
) -> bytes:
    """A PNG with the RGB pictures in rows and, below each one, the names of its attributes."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.4 * rows), dpi=110)
    for number, (image, names) in enumerate(zip(images, attributes, strict=True)):
        axis = figure.add_subplot(rows, columns, number + 1)
        axis.imshow(image)
        axis.set(xticks=[], yticks=[])
        text = textwrap.fill(", ".join(name.replace("_", " ") for name in names), 42, max_lines=5, placeholder=" ...")
        axis.set_xlabel(text, fontsize=5, labelpad=2)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=0.22 / rows, wspace=0.05, hspace=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
