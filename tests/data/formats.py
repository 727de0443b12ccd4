"""Copies of a COCO data set in the other formats of boxes."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from quantcore.data.coco import CocoDataset


def write_yolo(data: CocoDataset, root: Path, split: str = "val") -> Path:
    """A data.yaml with `images/` and `labels/`; the images are links. Crowds are left out."""
    (root / "images" / split).mkdir(parents=True)
    (root / "labels" / split).mkdir(parents=True)
    order = {c.id: n for n, c in enumerate(sorted(data.categories, key=lambda c: c.id))}
    names = {order[c.id]: c.name for c in data.categories}
    for image in data.images:
        (root / "images" / split / image.path.name).symlink_to(image.path.resolve())
        rows = [
            f"{order[a.category_id]} {(x + w / 2) / image.width!r} {(y + h / 2) / image.height!r} "
            f"{w / image.width!r} {h / image.height!r}\n"
            for a in data.annotations_of([image])
            if not a.iscrowd
            for x, y, w, h in [a.bbox]
        ]
        (root / "labels" / split / f"{image.path.stem}.txt").write_text("".join(rows))
    lines = [f"  {n}: {names[n]}" for n in sorted(names)]
    source = root / "data.yaml"
    source.write_text(f"path: .\n{split}: images/{split}\nnames:\n" + "\n".join(lines) + "\n")
    return source


def write_voc(data: CocoDataset, root: Path, split: str = "val", in_order: bool = False) -> Path:
    """Pascal VOC's folders; the images are links. Crowds are difficult objects."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = {category.id: category.name for category in data.categories}
    for image in data.images:
        (root / "JPEGImages" / image.path.name).symlink_to(image.path.resolve())
        objects = [
            f"<object><name>{escape(names[a.category_id])}</name><difficult>{a.iscrowd:d}</difficult>"
            f"<bndbox><xmin>{x + 1!r}</xmin><ymin>{y + 1!r}</ymin><xmax>{x + w!r}</xmax>"
            f"<ymax>{y + h!r}</ymax></bndbox></object>"
            for a in data.annotations_of([image])
            for x, y, w, h in [a.bbox]
        ]
        text = f"<annotation><filename>{image.path.name}</filename>{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{image.path.stem}.xml").write_text(text)
    listed = "".join(f"{image.path.stem}\n" for image in data.images)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    if in_order:
        ordered = sorted(data.categories, key=lambda category: category.id)
        (root / "label_list.txt").write_text("".join(f"{c.name}\n" for c in ordered))
    return root
