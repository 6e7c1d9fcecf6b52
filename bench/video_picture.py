"""Makes docs/figures/video.gif: `python -m bench.video_picture CHECKPOINT [FOLDER]`.

Two drawn people turn their heads and cross, one in front of the other. FOLDER keeps the film and what
`jointface.predict` writes of it.
"""

import math
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from hydra import compose, initialize_config_dir
from PIL import Image

from bench.drawn_film import DrawnFilm, Place
from jointface.command_line import CONF_DIR
from jointface.geometry import FaceBox
from jointface.inference.video_files import Video, VideoWriter
from jointface.predict import predict
from jointface.synthesis.faces import FaceFactory

OUTPUT = Path("docs/figures/video.gif")
PEOPLE = (14, 10)
WIDTH, HEIGHT, RATE, SECONDS, SCENERY = 480, 210, 25, 4, 30
SHOWN = 2  # every so many pictures are in the GIF


def places(time: float) -> list[Place]:
    """Of both people at a time in seconds: they walk through the picture in opposite directions."""
    way = math.cos(math.pi * time / SECONDS)
    turn = 18 * math.sin(2 * math.pi * time / SECONDS)
    nod = 6 * math.sin(4 * math.pi * time / SECONDS)
    return [
        Place(FaceBox(WIDTH / 2 + 150 * way, 128, 78), (nod, turn, 0)),
        Place(FaceBox(WIDTH / 2 - 150 * way, 136, 88), (-nod, -turn, nod)),
    ]


def main(checkpoint: str, folder: Path) -> None:
    """Draws the film, reads it, and writes the GIF."""
    film = DrawnFilm(FaceFactory(supersampling=2), PEOPLE, WIDTH, HEIGHT, SCENERY)
    folder.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(folder / "film.mp4", (WIDTH, HEIGHT), Fraction(RATE))
    for number in range(RATE * SECONDS):
        writer.write(film.picture(places(number / RATE)), number / RATE)
    writer.close()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = [f"input={folder}/film.mp4", f"checkpoint={checkpoint}", f"output_dir={folder}/out"]
        predict(compose("predict", overrides=[*given, f"overlay_side={WIDTH}", "moving_mesh=true"]))
    pictures = [Image.fromarray(frame.image) for frame in Video(folder / "out" / "videos" / "film.mp4")]
    first, *rest = (picture.quantize(96, dither=Image.Dither.NONE) for picture in pictures[::SHOWN])
    first.save(OUTPUT, save_all=True, append_images=rest, duration=1000 * SHOWN // RATE, loop=0, optimize=True)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(sys.argv[1], Path(scratch))
