"""Heat maps of errors on the face."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jointface.viz.mesh_view import SIDE_YAW, Triangles, Vertices, view_mesh

COLOUR_MAP = matplotlib.colormaps["YlOrRd"]  # light for small errors, so that the shading remains visible
UNKNOWN = 200.0  # grey


def error_heat_map(
    vertices: Vertices,
    triangles: Triangles,
    errors: Mapping[str, Float[np.ndarray, "vertices"]],
    label: str,
    highest: float | None = None,
) -> Figure:
    """Shows the error of each vertex as a colour on a mesh, from the front and the side; one row per method.

    Args:
        vertices: x right, y down, z towards the viewer.
        errors: for each method; vertices with NaN, such as the neck, are grey.
        label: label of the colour bar: the error and its unit.
        highest: upper end of the colour scale; None takes the 99 % quantile.
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    norm = Normalize(0, highest or (float(np.quantile(finite, 0.99)) if len(finite) else 1.0) or 1.0)
    figure = Figure(figsize=(5.6, 2.7 * len(errors)), layout="constrained")
    axes = figure.subplots(len(errors), 2, squeeze=False)
    for row, (name, values) in zip(axes, errors.items(), strict=True):
        known = np.isfinite(values)
        colours = np.where(known[:, None], 255 * COLOUR_MAP(norm(np.nan_to_num(values)))[:, :3], UNKNOWN)
        for axis, yaw in zip(row, (0.0, SIDE_YAW), strict=True):
            axis.imshow(view_mesh(vertices, triangles, yaw=yaw, colours=colours))
            axis.set_axis_off()
        mean = f", mean {values[known].mean():.3g}" if known.any() else ""
        row[0].set_title(f"{name}{mean}", loc="left", fontsize=9)
    figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=axes, label=label, shrink=0.8, extend="max")
    return figure
