"""NNCF's range estimators for single tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from nncf.common.tensor_statistics.collectors import (
    AbsMaxReducer,
    AbsQuantileReducer,
    AggregatorBase,
    HistogramAggregator,
    MaxAggregator,
    MeanAggregator,
    RawReducer,
    TensorReducerBase,
)
from nncf.tensor import Tensor

from quantcore.policy.policy import TensorPolicy

#: NNCF's `quantile_outlier_prob` is 1e-4 unless set.
PERCENTILE = 99.99


class Estimator:
    """The range of one tensor, from batch to batch."""

    def __init__(self, policy: TensorPolicy) -> None:
        self._reducer, self._aggregator = _parts(policy)

    def see(self, values: npt.NDArray[np.float32]) -> None:
        """Takes the tensor's values for one more batch into account."""
        reduced = self._reducer([Tensor(values)])
        if reduced is not None:
            self._aggregator.register_reduced_input(reduced[0])

    def amax(self) -> float:
        """The larger end of the range."""
        found = self._aggregator.aggregate()
        ends = found.values() if isinstance(found, dict) else [found]
        return max(float(np.abs(np.asarray(end.data)).max()) for end in ends)


def _parts(policy: TensorPolicy) -> tuple[TensorReducerBase, AggregatorBase]:
    """What NNCF builds a collector of for a range estimator of that kind."""
    if policy.observer == "mse":
        return RawReducer(), HistogramAggregator(dist_nbits=policy.bits)
    if policy.observer == "percentile":
        share = policy.parameter("percentile", PERCENTILE) / 100
        return AbsQuantileReducer(quantile=[share]), MeanAggregator()
    if policy.observer == "moving_average":
        return AbsMaxReducer(), MeanAggregator()
    return AbsMaxReducer(), MaxAggregator()


def largest(weight: npt.NDArray[np.float32], axis: int | None) -> npt.NDArray[np.float32]:
    """NNCF's range of a weight: one number, or one for each channel of the axis."""
    axes = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    (reduced,) = AbsMaxReducer(axes=axes)([Tensor(weight)]) or [Tensor(weight)]
    values: npt.NDArray[np.float32] = np.asarray(reduced.data).reshape(-1)
    return values
