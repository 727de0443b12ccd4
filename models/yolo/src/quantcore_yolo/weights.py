"""Weights as the graph wants them: batch-norm, RepConv branches and implicit knowledge folded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array
from quantcore_yolo.checkpoint import Checkpoint

Double = npt.NDArray[np.float64]

#: What a checkpoint may hold without any layer reading it.
_UNREAD = (".num_batches_tracked", ".anchors", ".anchor_grid")


class Weights:
    """The folded weights of a checkpoint's modules; folding is done in FP64."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._read: set[str] = set()

    def conv(self, path: str) -> tuple[Array, Array]:
        """Weight and bias of a Conv module: `<path>.conv`, with `<path>.bn` where it has one.

        Raises:
            CheckpointError: A tensor is missing, malformed or not finite.
        """
        return _single(self._branch(f"{path}.conv", f"{path}.bn"))

    def rep_conv(self, path: str) -> tuple[Array, Array]:
        """Weight and bias of a RepConv as one 3x3 convolution, from either of its forms.

        Raises:
            CheckpointError: A tensor is missing, malformed or not finite.
        """
        if f"{path}.rbr_reparam.weight" in self._checkpoint.tensors:
            return _single(self._plain(f"{path}.rbr_reparam"))
        weight, bias = self._branch(f"{path}.rbr_dense.0", f"{path}.rbr_dense.1")
        point, point_bias = self._branch(f"{path}.rbr_1x1.0", f"{path}.rbr_1x1.1")
        if weight.shape[2:] != (3, 3) or point.shape != (*weight.shape[:2], 1, 1):
            self._fail(f"{path}: RepConv needs a 3x3 and a 1x1 branch")
        weight[:, :, 1:2, 1:2] += point
        bias += point_bias
        if f"{path}.rbr_identity.running_var" in self._checkpoint.tensors:
            scale, shift = self._batch_norm(f"{path}.rbr_identity")
            if scale.shape != bias.shape:
                self._fail(f"{path}: the identity branch does not fit the 3x3 branch")
            # Output channel i passes input channel i, counted within its group.
            out = np.arange(len(scale))
            weight[out, out % weight.shape[1], 1, 1] += scale
            bias += shift
        return _single((weight, bias))

    def head(self, path: str, level: int) -> tuple[Array, Array]:
        """Weight and bias of one detection convolution; the implicit vectors are folded.

        An IDetect head computes `m * (conv(x + a))` with learnt vectors a and m.

        Raises:
            CheckpointError: A tensor is missing, malformed or not finite.
        """
        weight, bias = self._plain(f"{path}.m.{level}")
        if weight.shape[2:] != (1, 1):
            self._fail(f"{path}.m.{level}: a detection head is a 1x1 convolution")
        added, factor = f"{path}.ia.{level}.implicit", f"{path}.im.{level}.implicit"
        if self._checkpoint.head_fused:  # the vectors are still there, but already in the weights
            self._read.update((added, factor))
            return _single((weight, bias))
        if added in self._checkpoint.tensors:
            bias += weight[:, :, 0, 0] @ self._vector(added, weight.shape[1])
        if factor in self._checkpoint.tensors:
            scale = self._vector(factor, weight.shape[0])
            weight *= scale[:, None, None, None]
            bias *= scale
        return _single((weight, bias))

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor."""
        return name in self._checkpoint.tensors

    def check_all_read(self) -> None:
        """Raises CheckpointError if the checkpoint holds weights that no layer asked for."""
        left = [n for n in self._checkpoint.tensors if n not in self._read and _matters(n)]
        if left:
            self._fail(f"{len(left)} tensors belong to no layer of its layer list, as {left[0]}")

    def _branch(self, conv: str, norm: str) -> tuple[Double, Double]:
        """A convolution with its batch-norm folded, if there is one."""
        weight, bias = self._plain(conv)
        if f"{norm}.running_var" not in self._checkpoint.tensors:
            if f"{conv}.bias" not in self._checkpoint.tensors:
                self._fail(f"{conv} has neither a bias nor a batch-norm {norm}")
            return weight, bias
        scale, shift = self._batch_norm(norm)
        if scale.shape != bias.shape:
            self._fail(f"{norm} does not fit {conv}")
        return weight * scale[:, None, None, None], shift + bias * scale

    def _plain(self, path: str) -> tuple[Double, Double]:
        """A convolution's own weight and bias; the bias is 0 where it has none."""
        weight = self._tensor(f"{path}.weight")
        if weight.ndim != 4 or 0 in weight.shape:
            self._fail(f"{path}.weight has shape {weight.shape}, not that of a convolution")
        name = f"{path}.bias"
        bias = self._vector(name, len(weight)) if self.has(name) else np.zeros(len(weight))
        return weight, bias

    def _batch_norm(self, path: str) -> tuple[Double, Double]:
        """The factor and the summand that a batch-norm comes to at inference."""
        variance = self._tensor(f"{path}.running_var")
        names = ("weight", "bias", "running_mean")
        gamma, beta, mean = (self._vector(f"{path}.{n}", variance.size) for n in names)
        scale = gamma / np.sqrt(variance.reshape(-1) + self._checkpoint.bn_eps.get(path, 1e-3))
        return scale, beta - mean * scale

    def _vector(self, name: str, length: int) -> Double:
        value = self._tensor(name)
        if value.size != length:
            self._fail(f"{name} has {value.size} elements, needs {length}")
        return value.reshape(-1)

    def _tensor(self, name: str) -> Double:
        """A tensor as a fresh FP64 array."""
        value = self._checkpoint.tensors.get(name)
        if value is None:
            self._fail(f"tensor {name} is missing")
        assert value is not None
        if not np.isfinite(value).all():
            self._fail(f"tensor {name} holds NaN or infinity")
        self._read.add(name)
        return value.astype(np.float64)

    def _fail(self, what: str) -> None:
        raise CheckpointError(
            f"{self._checkpoint.origin}: {what}; the file is damaged or of another architecture"
        )


def _matters(name: str) -> bool:
    return name.startswith("model.") and not name.endswith(_UNREAD)


def _single(pair: tuple[Double, Double]) -> tuple[Array, Array]:
    """Rounds folded weights to FP32, once and at the end."""
    return pair[0].astype(np.float32), pair[1].astype(np.float32)
