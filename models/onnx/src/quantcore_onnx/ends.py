"""The ends of a graph as presets look at them: shapes, counts of cells, what stands behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from quantcore.evaluation.decoding.gfl import cell_grids
from quantcore.ir.decoding import Decoding
from quantcore.ir.edits import attributes, constants, fixed_shapes, producers
from quantcore.ir.model import Preprocessing

Shape = tuple[int, ...]

#: Strides that detectors have heads at, and how many of them the finest head may have.
_STRIDES = (2, 4, 8, 16, 32, 64, 128)
_FINEST = 4

#: Behind these stands another part of the network.
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")

#: What a head's numbers may pass before they are an output.
_ARRANGING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast")


@dataclass(frozen=True)
class Heads:
    """The outputs that matter.

    Attributes:
        names: Of the tensors, in the order that `decoding` reads them.
        decoding: How they become boxes.
        classes: Number of classes; None where the outputs do not tell.
        preprocessing: How images go in.
        sure: Whether no network of another preset ends like this.
    """

    names: tuple[str, ...]
    decoding: Decoding
    classes: int | None
    preprocessing: Preprocessing
    sure: bool = False


@dataclass(frozen=True)
class Preset:
    """A family of networks that end alike and take their images alike.

    Attributes:
        wanted: Which outputs it needs, in words.
        find: The heads of a graph, or None where its outputs are others.
        preprocessings: How images may go in, for a network input of (height, width).
        reads: Whether its networks may be decoded so.
    """

    wanted: str
    find: Callable[[Ends], Heads | None]
    preprocessings: Callable[[tuple[int, int]], tuple[Preprocessing, ...]]
    reads: Callable[[Decoding], bool]


@dataclass(frozen=True)
class Ends:
    """A graph with fixed shapes, seen from its outputs.

    Attributes:
        graph: With all shapes inferred.
        size: (height, width) of the network input in pixels.
        classes: Number of classes, where the file tells.
    """

    graph: onnx.GraphProto
    size: tuple[int, int]
    classes: int | None = None

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Of all tensors, where they are fixed."""
        return fixed_shapes(self.graph)

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return producers(self.graph)

    @cached_property
    def outputs(self) -> dict[str, Shape]:
        """The outputs and their shapes; an unknown one is empty."""
        return {o.name: self.shapes.get(o.name, ()) for o in self.graph.output}

    @property
    def flat(self) -> tuple[str, Shape] | None:
        """The one output of three dimensions, where there is one.

        An export may hold the raw heads beside the decoded predictions; the latter suffice.
        """
        found = [item for item in self.outputs.items() if len(item[1]) == 3]
        return found[0] if len(found) == 1 else None

    def in_words(self) -> str:
        """The outputs for an error message."""
        return ", ".join(
            f"{n} {' x '.join(map(str, s)) or 'of unknown shape'}" for n, s in self.outputs.items()
        )

    def names_as_many(self, classes: int) -> bool:
        """Whether a number of classes is what the file says, if it says anything."""
        return self.classes in (None, classes)

    def runs(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Strides that a network may have heads at, each with the number of its cells."""
        for first in range(_FINEST):
            for last in range(first + 1, len(_STRIDES) + 1):
                strides = _STRIDES[first:last]
                yield strides, sum(h * w for h, w in cell_grids(self.size, strides))
                # Networks without padding leave out what does not fill a cell.
                yield strides, sum((self.size[0] // s) * (self.size[1] // s) for s in strides)

    def counts(self, number: int, each: tuple[int, ...] = (1,), fewest: int = 2) -> bool:
        """Whether a number is that of the cells of some strides, each with so many predictions.

        Args:
            number: What to look for.
            each: Predictions that a cell may have.
            fewest: Strides; one alone agrees with too many numbers where little else is known.
        """
        known = (cells for strides, cells in self.runs() if cells and len(strides) >= fewest)
        return any(number in [k * cells for k in each] for cells in known)

    def has_sigmoid(self, tensor: str) -> bool:
        """Whether a Sigmoid stands between a tensor and the last weights that lead to it."""
        pending, seen = [tensor], {tensor}
        while pending:
            node = self.makers.get(pending.pop())
            if node is None or node.op_type in _WEIGHTED:
                continue
            if node.op_type == "Sigmoid":
                return True
            fresh = set(node.input) - seen
            seen |= fresh
            pending.extend(fresh)
        return False

    def behind(self, tensor: str, also: tuple[str, ...] = ()) -> onnx.NodeProto | None:
        """The node that makes a tensor's numbers, before others that rearrange them.

        Args:
            tensor: Where to start.
            also: Operators that are followed to their first input too.
        """
        node = self.makers.get(tensor)
        while node is not None and node.op_type in (*_ARRANGING, *also):
            node = self.makers.get(node.input[0])
        return node

    def box_form(self, tensor: str) -> str:
        """`corners` where the graph puts its boxes together so, else `center`.

        Boxes come first in what an output joins. A corner is a point less a distance beside a
        point plus one; a center is half of the sum of both.
        """
        node = self.behind(tensor)
        for _ in range(2):  # boxes with scores, then one half of a box with the other
            if node is None or node.op_type != "Concat":
                return "center"
            parts, node = list(node.input), self.behind(node.input[0], also=("Mul",))
        makers = [self.behind(part) for part in parts]
        kinds = [maker.op_type if maker is not None else "" for maker in makers]
        return "corners" if kinds == ["Sub", "Add"] else "center"

    def divisor(self) -> int | None:
        """The number of classes that the tail of an end-to-end network divides its indices by."""
        known = constants(self.graph)
        for node in self.graph.node:
            if node.op_type == "Mod" and node.input[1] in known:
                value = np.asarray(known[node.input[1]])
                if value.size == 1 and value.dtype.kind in "iu":
                    return int(value.reshape(-1)[0])
        return None

    def before_split(self, name: str) -> str:
        """The raw head behind a B x A x H x W x (5+C) output; the output itself if it is another.

        Exports reshape a head to B x A x (5+C) x H x W and move the middle to the end; both steps
        only rearrange, so that the tensor before them holds the same predictions.
        """
        moved = self.makers.get(name)
        if moved is None or moved.op_type != "Transpose":
            return name
        if attributes(moved).get("perm") != [0, 1, 3, 4, 2]:
            return name
        split = self.makers.get(moved.input[0])
        if split is None or split.op_type != "Reshape":
            return name
        before = self.shapes.get(split.input[0], ())
        after = self.shapes.get(split.output[0], ())
        return split.input[0] if len(before) == 4 and before[2:] == after[3:] else name
