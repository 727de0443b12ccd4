"""Which of a model's classes is which of a data set's: by name, and never silently by position."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from quantcore.data.dataset import Category
from quantcore.errors import DataError
from quantcore.runtime.notes import note
from quantcore.showing import shown

#: Names in a message.
_MOST_TOLD = 3


def match_classes(
    class_names: Sequence[str],
    categories: Sequence[Category],
    source: Path,
    in_order: bool = True,
) -> tuple[int, ...]:
    """The category id of each of a model's classes.

    Names are the same where they differ only in case, blanks, `_` and `-`. What neither side knows
    of the other is left out and told. Where the model numbers its classes (`class0`, `12`), or has
    as many as the data set and all names that both know stand at the same place, the others are
    taken in the order of category ids, which is the order that detectors are trained in.

    Args:
        class_names: The model's, in class-index order.
        categories: The data set's.
        source: Of the data set, for messages.
        in_order: Whether the data set's ids stand for an order that a model can have been trained
            in; where not, taking classes in it is told in any case.

    Returns:
        Ids; a class that the data set does not have gets one that no category has.

    Raises:
        DataError: No name is known to both, and the numbers of classes differ.
    """
    ordered = sorted(categories, key=lambda category: category.id)
    by_name: dict[str, int] = {}
    for category in ordered:
        by_name.setdefault(spelled(category.name), category.id)
    names = [spelled(name) for name in class_names]
    times = Counter(names)  # a name that stands for two classes tells neither
    ids = [by_name.get(name) if times[name] == 1 else None for name in names]
    every = [category.id for category in ordered]
    if None not in ids and len(ids) == len(every):
        return tuple(i for i in ids if i is not None)
    numbered = all(re.fullmatch(r"class ?\d+|\d+", name) for name in names)
    same_places = zip(ids, every, strict=False)
    if len(ids) == len(every) and all(i in (None, there) for i, there in same_places):
        if not (numbered and in_order):
            _tell_order(class_names, ordered, source)
        return tuple(every)
    known = [i for i in ids if i is not None]
    if not known:
        raise DataError(
            f"the model knows {len(ids)} classes ({_few(class_names)}), {source} has "
            f"{len(categories)} categories ({_few([c.name for c in ordered])}), and no name is "
            "among both; use the data set that the model was trained on"
        )
    _tell_unknown(class_names, ids, ordered, source)
    spare = itertools.count(max(every) + 1)
    return tuple(next(spare) if i is None else i for i in ids)


def spelled(name: str) -> str:
    """A name without what people write in different ways."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _tell_order(class_names: Sequence[str], ordered: Sequence[Category], source: Path) -> None:
    """Tells which names differ where they are taken to be the same by their order."""
    pairs = [(name, category.name) for name, category in zip(class_names, ordered, strict=True)]
    other = [(name, there) for name, there in pairs if spelled(name) != spelled(there)]
    note(
        f"{len(other)} of the model's {len(pairs)} class names are not those of {source.name}, "
        f"such as {shown(other[0][0], 60)} where that has {shown(other[0][1], 60)}; these classes "
        "are matched by their order"
    )


def _tell_unknown(
    class_names: Sequence[str], ids: Sequence[int | None], ordered: Sequence[Category], source: Path
) -> None:
    """Tells what is left out on either side."""
    missing = [c.name for c in ordered if c.id not in ids]
    extra = [name for name, i in zip(class_names, ids, strict=True) if i is None]
    told = []
    if missing:
        told.append(
            f"{len(missing)} of the {len(ordered)} categories of {source.name} ({_few(missing)}) "
            "are none of the model's classes, so that their objects count as missed"
        )
    if extra:
        told.append(
            f"{len(extra)} of the model's {len(class_names)} classes ({_few(extra)}) are none of "
            f"{'its' if missing else source.name + chr(39) + 's'} categories and do not count"
        )
    note("; ".join(told))


def _few(names: Sequence[str]) -> str:
    told = ", ".join(shown(name, 40) for name in names[:_MOST_TOLD])
    return f"{told}, ..." if len(names) > _MOST_TOLD else told
