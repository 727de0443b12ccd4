"""What backends share: a graph with sums shows what is not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from quantcore.contracts.observing import SUM, SumsChecked, with_sums
from quantcore.errors import RangeError
from quantcore.ir.model import FloatModel


class _Session:
    """A session of ONNX Runtime, as far as `SumsChecked` looks at it."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.values = values

    def get_outputs(self) -> list[object]:
        return [type("Output", (), {"name": name}) for name in self.values]

    def run(self, names: object, feeds: object) -> list[np.ndarray]:
        return list(self.values.values())


def test_sums_show_what_is_not_finite(net: FloatModel, run: Callable) -> None:
    summed = with_sums(net.proto, ["t0", "t5"])
    images = np.ones((1, 3, 16, 16), np.float32)
    found = run(summed, images)
    shown = run(with_sums(net.proto, []), images)
    assert set(found) - set(shown) == {f"t0{SUM}", f"t5{SUM}"}
    assert all(np.isfinite(found[name]) for name in (f"t0{SUM}", f"t5{SUM}"))
    images[0, 0, 0, 0] = np.nan
    broken = run(summed, images)
    assert np.isnan(broken[f"t0{SUM}"])
    with pytest.raises(RangeError, match="'t0': NaN or infinite"):
        SumsChecked(_Session(broken)).run(None, {})
    assert len(SumsChecked(_Session(found)).run(None, {})) == len(found)
