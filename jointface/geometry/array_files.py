"""Reads and checks arrays in .npy and MATLAB files, and writes MATLAB files. Error messages name the file."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from jointface.errors import DataError
from jointface.files import disguise_of


def read_npy(path: Path, source: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Reads a numeric array from a .npy file. Error messages add `source`, which says where to get the file.

    Raises:
        DataError: the file is missing or unreadable, has another shape, or holds values that are not finite numbers.
    """
    require_file(path, source)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .npy file ({error})") from error
    return checked_numbers(path, array, shape)


def read_mat(path: Path, name: str, source: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Reads a numeric variable from a .mat file, with the checks of `read_npy`."""
    return checked_numbers(f"{path}: {name}", read_mat_variable(path, name, source), shape)


def read_mat_variable(path: Path, name: str, source: str) -> np.ndarray:
    """Reads a variable of any type from a .mat file."""
    require_file(path, source)
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except NotImplementedError as error:  # what scipy raises for MATLAB 7.3
        raise DataError(f"{path}: a MATLAB 7.3 file, the published one is older; {source}") from error
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    if name not in content:
        found = ", ".join(variable for variable, _, _ in scipy.io.whosmat(path))
        raise DataError(f"{path}: no variable {name!r} in it, it holds {found or 'none'}; {source}")
    return content[name]


def require_file(path: Path, source: str) -> None:
    """Raises a DataError unless the file exists and is readable."""
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent.resolve()}: looked there for {path.name}; {source}")
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent.resolve()}: {source}")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read the file; allow it, e.g. with chmod u+r")
    if disguised := disguise_of(path):
        raise DataError(f"{path}: this is {disguised}; {source}")


def checked_numbers(what: str | Path, array: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns the array if it has this shape and finite numbers, else raises a DataError that starts with `what`."""
    if shape is not None and array.shape != shape:
        raise DataError(f"{what}: expected shape {shape}, found {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or not array.size:
        raise DataError(f"{what}: expected numbers, found {array.size} values of type {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: holds NaN or infinite values; the file is damaged, get it again")
    return array


def mat_bytes(variables: dict[str, Any]) -> bytes:
    """Encodes variables as a compressed MATLAB 5 file. A dict becomes a struct. Equal variables give equal bytes."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    # Replace the 116-byte text header, which contains the time.
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]
