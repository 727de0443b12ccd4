"""Rewrites of a study's model: each in a process of its own, kept, and found again by content."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

import quantcore
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, equalize
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.rewrites import Equalized
from quantcore.rewrites.equalization import ALPHA
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress

#: Of what a kept rewrite means; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An equalized graph and what was done to it."""

    proto: onnx.ModelProto
    multiplied: tuple[str, ...]
    folded: tuple[str, ...]
    parity: float


def equalized_once(
    model: FloatModel, data: Data, policy: CalibrationPolicy, runtime: Runtime
) -> Equalized:
    """What `quantcore.pipeline.equalize` gives, unless the runtime has it already.

    Args:
        model: The float model.
        data: Where the calibration images are.
        policy: Says which of them.
        runtime: Where it is done and kept.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    images = CocoDataset.open(data.root, data.calibration).select(policy.images, policy.seed)
    digests = file_digests((image.path for image in images), runtime.progress)
    key = content_key(
        "equalize",
        REVISION,
        quantcore.__version__,
        model.key,
        ALPHA,
        [digests[image.path] for image in images],
    )
    given = (model, data, policy.images, policy.seed)
    kept = runtime.one(whole("equalization", key, _Kept, _equalize, *given))
    return Equalized(replace(model, proto=kept.proto), kept.multiplied, kept.folded, kept.parity)


def _equalize(model: FloatModel, data: Data, images: int, seed: int, progress: Progress) -> _Kept:
    done = equalize(model, data, images, seed, ALPHA, progress)
    return _Kept(
        proto=done.model.proto,
        multiplied=done.multiplied,
        folded=done.folded,
        parity=done.parity,
    )
