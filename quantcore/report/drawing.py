"""Boxes and labels drawn into pictures; two networks' side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from quantcore.results.pictures import Picture, Sight

Pixels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

#: BGR of classes in turn, dark enough for white letters (after Okabe and Ito).
_CLASSES = (
    (178, 114, 0),
    (0, 94, 213),
    (115, 128, 0),
    (160, 60, 150),
    (40, 110, 170),
    (80, 80, 80),
)
#: What a network lost or gained, and the truth.
LOST, GAINED, TRUTH = (40, 30, 200), (0, 140, 240), (70, 130, 20)
_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(
    pixels: Pixels,
    sights: Iterable[Sight],
    *,
    marked: Sequence[Sight] = (),
    mark: Color = LOST,
    shade: Color | None = None,
) -> Pixels:
    """A copy of a picture with what was found in it.

    Args:
        pixels: H x W x 3, BGR.
        sights: What was found.
        marked: What of it is drawn thick and on top.
        mark: BGR of that.
        shade: BGR of the rest; the colour of each one's class where None.
    """
    canvas: Pixels = pixels.copy()
    unit = max(1, round(max(canvas.shape[:2]) / 500))
    special = {(sight.class_index, sight.box) for sight in marked}
    last = sorted(sights, key=lambda sight: (sight.class_index, sight.box) in special)
    for number, sight in enumerate(last):
        own = shade or _CLASSES[sight.class_index % len(_CLASSES)]
        if (sight.class_index, sight.box) in special:
            _box(canvas, sight, mark, 3 * unit, unit, number)
        else:
            _box(canvas, sight, own, unit, unit, number)
    return canvas


def _box(
    canvas: Pixels,
    sight: Sight,
    shade: Color,
    thick: int,
    unit: int,
    number: int,
) -> None:
    size, margin = 0.45 * unit, 2 * unit
    text = f"{_ascii(sight.name)} {sight.score:.2f}" if sight.score < 1 else _ascii(sight.name)
    (width, height), base = cv2.getTextSize(text, _FONT, size, unit)
    left, top = margin, margin + number * (height + base + 2 * margin)
    if sight.box is not None:
        x1, y1, x2, y2 = (round(value) for value in sight.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), shade, thick)
        left = min(max(x1, 0), max(canvas.shape[1] - width - margin, 0))
        top = max(y1 - height - base - margin, 0)
    below = top + height + base + margin
    cv2.rectangle(canvas, (left, top), (left + width + margin, below), shade, -1)
    cv2.putText(
        canvas, text, (left, top + height + margin // 2), _FONT, size, _WHITE, unit, cv2.LINE_AA
    )


def _ascii(name: str) -> str:
    """OpenCV's letters are ASCII's."""
    return name.encode("ascii", "replace").decode()


def side_by_side(pixels: Pixels, picture: Picture, titles: tuple[str, str]) -> Pixels:
    """What the float network finds and what the other one does, in two panes.

    What was lost is marked in the first pane, what was gained in the second.
    """
    lost, gained = len(picture.lost), len(picture.gained)
    panes = (
        (draw(pixels, picture.reference or (), marked=picture.lost), f", {lost} lost (red)"),
        (
            draw(pixels, picture.found, marked=picture.gained, mark=GAINED),
            f", {gained} gained (orange)",
        ),
    )
    told = zip(panes, titles, (lost, gained), strict=True)
    done = [_titled(pane, title + (more if count else "")) for (pane, more), title, count in told]
    return np.concatenate(done, axis=1)


def _titled(pane: Pixels, title: str) -> Pixels:
    """A pane below its title."""
    unit = max(1, round(max(pane.shape[:2]) / 500))
    head = np.full((22 * unit, pane.shape[1], 3), 32, np.uint8)
    cv2.putText(
        head, _ascii(title), (6 * unit, 16 * unit), _FONT, 0.5 * unit, _WHITE, unit, cv2.LINE_AA
    )
    return np.concatenate([head, pane])
