"""Which tensors belong together, given overlapping sets of them."""

from __future__ import annotations

from collections.abc import Iterable


def united(ties: Iterable[Iterable[str]]) -> dict[str, str]:
    """Which group each tensor is in, given sets of tensors that belong together.

    Args:
        ties: Sets that may overlap; overlapping ones become one group.

    Returns:
        Tensor -> group, named after its first tensor.
    """
    group: dict[str, str] = {}
    for tie in ties:
        names = list(dict.fromkeys(tie))
        old = [group[name] for name in names if name in group]
        target = old[0] if old else names[0]
        for name, there in group.items():
            if there in old:
                group[name] = target
        group.update(dict.fromkeys(names, target))
    return group
