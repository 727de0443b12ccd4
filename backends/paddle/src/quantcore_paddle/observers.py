"""Paddle's own quantizers as observers: fed a tensor, they yield its amax.

Everything here that is not a call of Paddle contains a defect of Paddle 3.3.1, named by its file
and line (paddle/quantization/imperative/ptq_quantizer.py where no other is given).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.nn.quant.quant_layers import MovingAverageAbsMaxScale
from paddle.quantization.imperative import ptq_quantizer

from quantcore.errors import BackendError, CapabilityError, RangeError
from quantcore.qdq.placement import Site
from quantcore_paddle.containment import quiet

Tensor = Any

#: Paddle's defaults, where the policy is silent.
BINS = 1024
PERCENTILE = 99.999
MOMENTUM = 0.9

#: Below, the first candidate of the KL search has fewer bins than the 127 levels that it is
#: merged into, and the search divides by zero (cal_kl_threshold.py:91,105 of 3.3.1).
LEAST_KL_BINS = 255


def check_parameters(backend: str, site: Site) -> None:
    """Refuses parameter values that Paddle cannot honour, before any image is read.

    Raises:
        CapabilityError: Naming the tensor, the value and what Paddle takes.
    """
    policy = site.policy
    why = None
    if policy.observer == "percentile" and policy.parameter("percentile", PERCENTILE) >= 100:
        # ptq_quantizer.py:229 asserts a fraction below one.
        why = "percentile 100; it takes percentiles below 100 (observer max is the 100th)"
    if policy.observer == "entropy" and policy.parameter("bins", BINS) < LEAST_KL_BINS:
        why = f"entropy search over {policy.parameter('bins', BINS):g} bins; it needs "
        why += f"{LEAST_KL_BINS} or more"
    if why:
        raise CapabilityError(
            f"backend {backend!r} has no {why} ({site.role} {site.tensor!r} of layer "
            f"{site.consumers[0]!r})"
        )


def observer_of(site: Site) -> Observer:
    """The observer that a site's policy asks for."""
    policy = site.policy
    if policy.observer == "moving_average":
        return MovingAverageObserver(site)
    if policy.observer == "max":
        per_channel = site.axis is not None
        kind = "PerChannelAbsmaxQuantizer" if per_channel else "AbsmaxQuantizer"
        return Observer(site, getattr(ptq_quantizer, kind)(policy.bits))
    bins = int(policy.parameter("bins", BINS))
    if policy.observer == "entropy":
        return HistogramObserver(site, ptq_quantizer.KLQuantizer(policy.bits, bins))
    fraction = policy.parameter("percentile", PERCENTILE) / 100
    quantizer = ptq_quantizer.HistQuantizer(policy.bits, bins, hist_percent=fraction)
    return HistogramObserver(site, quantizer)


class Observer:
    """One quantizer of Paddle's at one site.

    Attributes:
        site: What is observed.
        quantizer: Paddle's object.
    """

    def __init__(self, site: Site, quantizer: Any) -> None:
        self.site = site
        self.quantizer = quantizer

    def __call__(self, x: Tensor, layer: paddle.nn.Layer | None = None) -> Tensor:
        """Observes a tensor and returns it unchanged.

        Args:
            x: The activation or weight.
            layer: Whose weight it is; Paddle reads the channel axis off its class.

        Raises:
            RangeError: NaN or infinite values; names tensor and layers.
            BackendError: Paddle cannot observe the tensor.
        """
        try:
            self._see(x, layer)
            usable = self._finite(x)
        except Exception as error:  # whatever Paddle and NumPy raise on data they cannot bin
            if not _is_finite(x):
                raise self._not_finite() from None
            raise BackendError(
                f"{self.where}: Paddle cannot observe it with {self.site.policy.observer!r}: "
                f"{first_line(error)}; give the layer observer max"
            ) from None
        if not usable:
            raise self._not_finite()
        return x

    def amax(self) -> npt.NDArray[np.float64]:
        """The threshold, or one for each channel.

        Raises:
            RangeError: Not a range; names tensor and layers.
            BackendError: Paddle finds none.
        """
        try:
            with quiet():
                found = self._threshold()
        except Exception as error:
            raise BackendError(
                f"{self.where}: Paddle finds no {self.site.policy.observer!r} threshold: "
                f"{first_line(error)}; give the layer observer max"
            ) from None
        if found is None:
            raise BackendError(f"{self.where}: Paddle saw no data")
        return np.asarray(found, dtype=np.float64)

    @property
    def where(self) -> str:
        """The site, for messages."""
        return f"{self.site.role} {self.site.tensor!r} of layer {', '.join(self.site.consumers)}"

    def _not_finite(self) -> RangeError:
        return RangeError(f"{self.where}: NaN or infinite; check the weights and the images")

    def _see(self, x: Tensor, layer: paddle.nn.Layer | None) -> None:
        self.quantizer.sample_data(layer, (x,))

    def _finite(self, x: Tensor) -> bool:
        """Whether what was seen is finite; asked after every tensor.

        merge_max_value (ptq_quantizer.py:42) keeps the larger of the old and the new value by
        Python's max, which drops a NaN again with the next batch.
        """
        return bool(np.isfinite(self.quantizer.abs_max_vals).all())

    def _threshold(self) -> Any:
        self.quantizer.thresholds = []
        self.quantizer.cal_thresholds()
        return self.quantizer.thresholds[0] if self.quantizer.thresholds else None


class HistogramObserver(Observer):
    """Paddle's histogram, for the percentile and the KL search."""

    def amax(self) -> npt.NDArray[np.float64]:
        """See Observer.

        HistQuantizer takes the middle of the bin before the one that reaches the percentile
        (ptq_quantizer.py:233). Where that is the first bin, on a mostly-zero tensor, the
        threshold is half a bin below zero.
        """
        found = super().amax()
        if found < 0:
            raise RangeError(
                f"{self.where}: Paddle's histogram puts the threshold at {found:g}: the first of "
                f"its {self.quantizer.bins} bins already holds the percentile; give the layer "
                "observer max, more bins or a higher percentile"
            )
        return found

    def _see(self, x: Tensor, layer: paddle.nn.Layer | None) -> None:
        if self.quantizer.abs_max_vals:
            self._make_room(ptq_quantizer.abs_max_value(x))
        super()._see(x, layer)

    def _make_room(self, new: float) -> None:
        """Grows a histogram whose tensor grew more than `bins`-fold, as Paddle would.

        combine_abs_max_and_hist (ptq_quantizer.py:68-77) repeats the old histogram 64 times and
        allocates 64 * bins * new / old numbers for it: a tensor that is almost zero in its first
        batch takes gigabytes. From this growth on all old counts end in the first bin, which can
        be written down at once.
        """
        quantizer = self.quantizer
        old, hist, fine = quantizer.abs_max_vals[0], quantizer.hists[0], quantizer.upsample_bins
        if old == 0 or new <= old * quantizer.bins:
            return
        width = old / (quantizer.bins * fine)
        grown = quantizer.bins * width * math.ceil(new / (quantizer.bins * width))
        collapsed = np.zeros(quantizer.bins, dtype=np.float32)
        collapsed[0] = hist.sum(dtype=np.float64)
        quantizer.abs_max_vals[0], quantizer.hists[0] = grown, collapsed

    def _threshold(self) -> Any:
        quantizer = self.quantizer
        if not isinstance(quantizer, ptq_quantizer.HistQuantizer):
            return super()._threshold()
        quantizer.thresholds = []
        _HIST_THRESHOLDS(quantizer)
        return quantizer.thresholds[0] if quantizer.thresholds else None


class MovingAverageObserver(Observer):
    """Paddle's moving average of each batch's absmax, started without a bias.

    FakeQuantMovingAverageAbsMax and FakeQuanterWithAbsMaxObserver start from an imagined first
    batch of absmax 1 (quant_layers.py:208-226, quanters/abs_max.py:115-133 of 3.3.1), which stays
    in the average; MovingAverageAbsMaxScale starts from nothing.
    """

    def __init__(self, site: Site) -> None:
        momentum = site.policy.parameter("momentum", MOMENTUM)
        with paddle.utils.unique_name.guard():
            super().__init__(site, MovingAverageAbsMaxScale(site.tensor, momentum))

    def _see(self, x: Tensor, layer: paddle.nn.Layer | None) -> None:
        self.quantizer.train()  # the average only moves in training mode
        self.quantizer(x)

    def _finite(self, x: Tensor) -> bool:
        return _is_finite(x)  # the operator's max passes over NaN

    def _threshold(self) -> Any:
        if self.quantizer._state.item() == 0:
            return None
        return self.quantizer._scale.item()


def _is_finite(x: Tensor) -> bool:
    return bool(paddle.isfinite(x).all().item())


def _scalar(value: Any) -> float:
    """What `float` does to an array of one element before NumPy 2.4."""
    return float(np.asarray(value).reshape(()))


def _with_scalar(method: Callable[..., None]) -> Callable[..., None]:
    """Paddle's own code of a method, whose `float` takes an array of one element.

    HistQuantizer.cal_thresholds calls float() on such an array (ptq_quantizer.py:233), which
    NumPy 2.4 refuses. A copy of the function over its own globals changes nothing in Paddle.
    """
    names = {**vars(ptq_quantizer), "float": _scalar}
    return FunctionType(method.__code__, names, method.__name__)


_HIST_THRESHOLDS = _with_scalar(ptq_quantizer.HistQuantizer.cal_thresholds)


def first_line(error: Exception) -> str:
    """What an error says, without Paddle's pages of C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error: " in line]
    text = (told or lines or [type(error).__name__])[-1]
    return text if len(text) <= 200 else text[:197] + "..."
