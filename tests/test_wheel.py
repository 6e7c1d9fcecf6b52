"""What `pip install jointface` brings: a wheel that reads a photo on a machine without a network."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Python imports a module of this name at its start. Whoever asks for a network gets an error.
NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("no network")

socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.mark.slow
def test_a_wheel_reads_a_photo_in_an_empty_folder_without_a_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(tmp_path), str(ROOT)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("jointface-*.whl")
    assert wheel.stat().st_size < 16 * 2**20  # weights and code; no data slipped in
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(installed)
    (installed / "sitecustomize.py").write_text(NO_NETWORK)
    folder.mkdir()
    environment = {"PYTHONPATH": str(installed), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    where = [sys.executable, "-c", "import jointface; print(jointface.__file__)"]
    found = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert Path(found.stdout.strip()).is_relative_to(installed)
    photo = ROOT / "docs" / "figures" / "portraits.jpg"
    command = [sys.executable, "-m", "jointface.predict", f"input={photo}", "output_dir=read"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    faces = json.loads((folder / "read" / "faces.json").read_text())["faces"]
    assert len(faces) >= 3
    assert all(0 <= face["attributes"]["Smiling"] <= 1 for face in faces)
