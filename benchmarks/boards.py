"""Draw simulated printed circuit boards with defects, in the layout of MVTec AD.

    python -m benchmarks.boards
    python train.py --config configs/mvtec.py --config.data.dir=boards --config.model.channels=1 --workdir runs/boards
    python -m benchmarks.localisation --workdir runs/boards

The images are black and white and have 640x640 pixels. They show parallel traces, pads with holes, and the pads of
components. There are 300 good boards to train on, and to test 60 good boards and 20 with each defect, with one to three
defects per board, and masks:
  open     a trace is interrupted
  short    two neighbouring traces are joined
  bite     copper is missing at the edge of a trace
  spur     copper sticks out of the edge of a trace
  copper   a spot of copper lies between two traces
  pinhole  a hole in a trace
All random numbers come from one seed. Boards are drawn at twice their size and then reduced.
"""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from anogan_jax import cli
from anogan_jax.errors import UserError

_SIDE, _FINE = 640, 2  # side of an image in pixels, and how many times larger it is drawn
_TRAIN, _TEST, _OF_DEFECT = 300, 60, 20  # images
DEFECTS = ("open", "short", "bite", "spur", "copper", "pinhole")
_LEAST = 15  # number of pixels that a defect must change
_COPPER, _BOARD = 255, 0
_FOLDER = flags.DEFINE_string("folder", "boards", "Folder to write to; it must not exist yet.")
Point = tuple[float, float]  # x and y in pixels of the image


class Board(NamedTuple):
    """A board without defects."""

    image: Image.Image  # grey, _FINE times as large as written
    traces: list[tuple[Point, Point]]  # ends of the straight parts
    width: int  # width of the traces in pixels
    pitch: int  # pixels from one trace to the next


def main() -> None:
    """Write the boards."""
    write(Path(_FOLDER.value))


def write(root: Path) -> None:
    """Write all images and masks; raise UserError if the folder exists already."""
    rng = np.random.default_rng(0)
    if root.exists():
        raise UserError(f"{root}: exists already; give another --folder")
    for split, count in (("train/good", _TRAIN), ("test/good", _TEST)):
        for i in range(count):
            _save(draw_board(rng).image, root / split / f"{i:03d}.png")
    for defect in DEFECTS:
        for i in range(_OF_DEFECT):
            board = draw_board(rng)
            image, mask = with_defects(board, defect, int(rng.integers(1, 4)), rng)
            _save(image, root / "test" / defect / f"{i:03d}.png")
            _save(mask, root / "ground_truth" / defect / f"{i:03d}_mask.png")


def draw_board(rng: np.random.Generator) -> Board:
    """Return a random board."""
    image = Image.new("L", (_SIDE * _FINE, _SIDE * _FINE), _BOARD)
    draw = ImageDraw.Draw(image)
    traces: list[tuple[Point, Point]] = []
    pitch, width = int(rng.choice([28, 36, 44])), int(rng.choice([8, 11, 14]))
    left, top = rng.integers(0, pitch, 2).tolist()
    is_horizontal = rng.random() < 0.5
    for row in range(top, _SIDE, pitch):
        column = 0
        while column < _SIDE:
            length = int(rng.integers(3, 16)) * pitch
            if rng.random() < 0.75:
                start = column + left
                points = _trace(start, min(start + length - pitch, _SIDE + 20), row, pitch, rng)
                points = points if is_horizontal else [(y, x) for x, y in points]
                _draw_trace(draw, points, width, rng)
                traces += pairwise(points)
            column += length
    for _ in range(int(rng.integers(0, 3))):
        _draw_component(draw, rng)
    return Board(image, traces, width, pitch)


def with_defects(board: Board, defect: str, count: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return a board's image with some defects of one kind, and their mask, both ``_FINE`` times the size."""
    image, pixels = board.image.copy(), np.array(board.image)
    mask = np.zeros(pixels.shape, bool)
    while count:
        changed = image.copy()
        _draw_defect(ImageDraw.Draw(changed), board, defect, rng)
        difference = np.array(changed) != np.array(image)
        if difference.sum() > _LEAST * _FINE**2:
            image, mask, count = changed, mask | difference, count - 1
    return image, Image.fromarray(mask.astype(np.uint8) * 255)


def _trace(start: int, end: int, row: int, pitch: int, rng: np.random.Generator) -> list[Point]:
    """Return the corners of a horizontal trace, which may be shifted once."""
    if rng.random() < 0.5 and end - start > 4 * pitch:
        corner = int(rng.integers(start + pitch, end - 2 * pitch))
        step = pitch // 2 * (1 if rng.random() < 0.5 else -1) // 2
        return [(start, row), (corner, row), (corner + abs(step), row + step), (end, row + step)]
    return [(start, row), (end, row)]


def _draw_trace(draw: ImageDraw.ImageDraw, points: list[Point], width: int, rng: np.random.Generator) -> None:
    """Draw a trace with round corners, and pads with holes at some of its ends."""
    for start, end in pairwise(points):
        draw.line(_fine(*start, *end), _COPPER, width * _FINE)
        _draw_disc(draw, start, width / 2, _COPPER)
        _draw_disc(draw, end, width / 2, _COPPER)
    for end in (points[0], points[-1]):
        if rng.random() < 0.5:
            radius = width * rng.uniform(0.9, 1.2)
            _draw_disc(draw, end, radius, _COPPER)
            _draw_disc(draw, end, radius * 0.45, _BOARD)


def _draw_component(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw a row of four to eight pads."""
    x, y = rng.integers(60, 480, 2).tolist()
    count, width, height, pitch = int(rng.integers(4, 9)), 14, 34, 26
    draw.rectangle(_fine(x - 10, y - 10, x + count * pitch, y + height + 10), _BOARD)
    for left in range(x, x + count * pitch, pitch):
        draw.rectangle(_fine(left, y, left + width, y + height), _COPPER)


def _draw_defect(draw: ImageDraw.ImageDraw, board: Board, defect: str, rng: np.random.Generator) -> None:
    """Draw a defect at a random place of a random trace, or nothing if the place is too close to the border."""
    start, end = (np.array(point) for point in board.traces[rng.integers(len(board.traces))])
    point = start + rng.uniform(0.15, 0.85) * (end - start)
    if (point <= 30).any() or (point >= _SIDE - 30).any():
        return
    across = (end - start)[::-1] * (-1, 1) / np.linalg.norm(end - start)
    width = board.width
    if defect == "open":
        _draw_spot(draw, point, width * rng.uniform(0.6, 1.1), _BOARD, rng)
    elif defect == "short":
        other = point + across * board.pitch
        draw.line(_fine(*point, *other), _COPPER, int(width * _FINE * rng.uniform(0.4, 0.9)))
    elif defect == "bite":
        _draw_spot(draw, point + across * width / 2, width * rng.uniform(0.35, 0.6), _BOARD, rng)
    elif defect == "spur":
        _draw_spot(draw, point + across * width * 0.7, width * rng.uniform(0.4, 0.7), _COPPER, rng)
    elif defect == "copper":
        _draw_spot(draw, point + across * board.pitch / 2, rng.uniform(4, 9), _COPPER, rng)
    else:
        _draw_spot(draw, point, width * rng.uniform(0.25, 0.4), _BOARD, rng)


def _draw_spot(
    draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, colour: int, rng: np.random.Generator
) -> None:
    """Draw a disc with an irregular outline."""
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radii = radius * rng.uniform(0.7, 1.25, 14)
    outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    draw.polygon(_fine(*outline.ravel().tolist()), colour)


def _draw_disc(draw: ImageDraw.ImageDraw, centre: Point, radius: float, colour: int) -> None:
    x, y = centre
    draw.ellipse(_fine(x - radius, y - radius, x + radius, y + radius), colour)


def _fine(*coordinates: float) -> list[float]:
    return [_FINE * coordinate for coordinate in coordinates]


def _save(image: Image.Image, path: Path) -> None:
    """Write an image in black and white, reduced to its final size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.array(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    Image.fromarray((small > 127).astype(np.uint8) * 255).save(path)


if __name__ == "__main__":
    cli.run(main)
