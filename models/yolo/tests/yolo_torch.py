"""An independent torch forward of the detectors, and checkpoints written from it; for tests."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EPS = 1e-3

# The networks are tiny: threads would only wait for one another.
torch.set_num_threads(1)


def activation(argument: Any) -> nn.Module:
    if argument == "nn.LeakyReLU(0.1)":
        return nn.LeakyReLU(0.1)
    return nn.SiLU()


class Conv(nn.Module):
    def __init__(self, i, o, k=1, s=1, p=None, g=1, act=None):
        super().__init__()
        padding = k // 2 if p in (None, "None") else p
        self.conv = nn.Conv2d(i, o, k, s, padding, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=EPS)
        self.act = activation(act)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fuseforward(self, x):
        return self.act(self.conv(x))

    def fuse(self):
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.fuseforward


class Bottleneck(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, 3), shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, i, o, n, shortcut=True):
        super().__init__()
        c = o // 2
        self.cv1, self.cv2, self.cv3 = Conv(i, c), Conv(i, c), Conv(2 * c, o)
        self.m = nn.Sequential(*(Bottleneck(c, shortcut) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, i, o, k=5):
        super().__init__()
        self.cv1, self.cv2 = Conv(i, i // 2), Conv(i // 2 * 4, o)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPP(nn.Module):
    def __init__(self, i, o, kernels):
        super().__init__()
        self.cv1, self.cv2 = Conv(i, i // 2), Conv(i // 2 * (len(kernels) + 1), o)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [m(x) for m in self.m], 1))


class Focus(nn.Module):
    def __init__(self, i, o, k):
        super().__init__()
        self.conv = Conv(4 * i, o, k)

    def forward(self, x):
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(corners, 1))


class SPPCSPC(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.cv4 = Conv(i, o), Conv(i, o), Conv(o, o, 3), Conv(o, o)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.cv5, self.cv6, self.cv7 = Conv(4 * o, o), Conv(o, o, 3), Conv(2 * o, o)

    def forward(self, x):
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(torch.cat([y] + [m(y) for m in self.m], 1)))
        return self.cv7(torch.cat((y, self.cv2(x)), 1))


class RepConv(nn.Module):
    def __init__(self, i, o, k=3, s=1):
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(i, eps=EPS) if i == o else None
        self.rbr_dense = nn.Sequential(
            nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o, eps=EPS)
        )
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o, eps=EPS))
        self.act = nn.SiLU()

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.act(y if self.rbr_identity is None else y + self.rbr_identity(x))

    def fuse(self):
        """Reads the sum of the branches off their answers to single pixels."""
        o, i = self.rbr_dense[0].weight.shape[:2]
        fused = nn.Conv2d(i, o, 3, self.rbr_dense[0].stride, 1)
        identity = self.rbr_identity or (lambda x: 0)
        answer = lambda x: self.rbr_dense(x) + self.rbr_1x1(x) + identity(x)  # noqa: E731
        with torch.no_grad():
            rest = answer(torch.zeros(1, i, 3, 3))
            pixels = torch.zeros(i, i, 3, 3)
            pixels[range(i), range(i), 1, 1] = 1
            fused.weight.copy_((answer(pixels) - rest).permute(1, 0, 2, 3).flip(2, 3))
            fused.bias.copy_(rest[0, :, 1, 1])
        del self.rbr_dense, self.rbr_1x1, self.rbr_identity
        self.rbr_reparam = fused


class MP(nn.Module):
    def __init__(self, k=2):
        super().__init__()
        self.m = nn.MaxPool2d(k, k)

    def forward(self, x):
        return self.m(x)


class SP(nn.Module):
    def __init__(self, k=3, s=1):
        super().__init__()
        self.m = nn.MaxPool2d(k, s, k // 2)

    def forward(self, x):
        return self.m(x)


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat(x, 1)


class Implicit(nn.Module):
    def __init__(self, shape, mean):
        super().__init__()
        self.implicit = nn.Parameter(mean + 0.2 * torch.randn(shape))


class Detect(nn.Module):
    stride = None

    def __init__(self, nc, anchors, channels):
        super().__init__()
        self.nc, out = nc, (nc + 5) * 3
        self.register_buffer("anchors", torch.tensor(anchors).float().view(3, 3, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, out, 1) for c in channels)

    def forward(self, xs):
        return [m(x) for m, x in zip(self.m, xs, strict=True)]


class IDetect(Detect):
    def __init__(self, nc, anchors, channels):
        super().__init__(nc, anchors, channels)
        out = (nc + 5) * 3
        self.ia = nn.ModuleList(Implicit((1, c, 1, 1), 0) for c in channels)
        self.im = nn.ModuleList(Implicit((1, out, 1, 1), 1) for _ in channels)

    def forward(self, xs):
        layers = zip(self.m, xs, self.ia, self.im, strict=True)
        return [im.implicit * m(x + ia.implicit) for m, x, ia, im in layers]

    def fuseforward(self, xs):
        return Detect.forward(self, xs)

    def fuse(self):
        with torch.no_grad():
            for m, ia, im in zip(self.m, self.ia, self.im, strict=True):
                m.bias += (m.weight * ia.implicit).sum((1, 2, 3))
                m.bias *= im.implicit.flatten()
                m.weight *= im.implicit.transpose(0, 1)
        self.forward = self.fuseforward


class Model(nn.Module):
    """Builds itself from the layer list, with random weights and plausible statistics."""

    def __init__(self, yaml: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.yaml = yaml
        self.names = [f"thing {i}" for i in range(yaml["nc"])]
        modules, channels = [], []
        for index, (sources, number, module, args) in enumerate(yaml["backbone"] + yaml["head"]):
            sources = [sources] if isinstance(sources, int) else sources
            absolute = [s if s >= 0 else index + s for s in sources]
            inputs = [channels[s] if s >= 0 else 3 for s in absolute]
            number = max(round(number * yaml["depth_multiple"]), 1) if number > 1 else number
            built, out = self._build(module, inputs, number, args)
            built.f = absolute
            modules.append(built)
            channels.append(out)
        self.model = nn.Sequential(*modules)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.6, 1.4)
                nn.init.normal_(m.bias, 0, 0.2)
                nn.init.normal_(m.running_mean, 0, 0.2)
                nn.init.uniform_(m.running_var, 0.2, 0.8)
        self.eval()
        head = self.model[-1]
        with torch.no_grad():
            sizes = [64 // h.shape[-1] for h in self(torch.zeros(1, 3, 64, 64))]
        head.stride = self.stride = torch.tensor(sizes).float()
        head.anchors /= head.stride.view(3, 1, 1)

    def _build(self, module, inputs, number, args):
        width = self.yaml["width_multiple"]
        i = inputs[0]
        name = module.removeprefix("nn.")
        if name in ("Detect", "IDetect"):
            kind = IDetect if name == "IDetect" else Detect
            return kind(self.yaml["nc"], self.yaml["anchors"], inputs), 0
        if name == "Concat":
            return Concat(), sum(inputs)
        if name == "Upsample":
            return nn.Upsample(None, 2, "nearest"), i
        if name in ("MP", "SP"):
            return {"MP": MP, "SP": SP}[name](*args), i
        out = max(4, round(args[0] * width / 4) * 4)
        if name == "C3":
            return C3(i, out, number, *args[1:]), out
        kinds = {k.__name__: k for k in (Conv, SPPF, SPP, Focus, SPPCSPC, RepConv)}
        return kinds[name](i, out, *args[1:]), out

    def forward(self, x):
        values = {-1: x}
        for index, m in enumerate(self.model):
            inputs = [values[f] for f in m.f]
            several = isinstance(m, Concat | Detect)
            values[index] = m(inputs if several else inputs[0])
        return values[index]

    def fuse(self):
        """The deploy form that the official `fuse()` leaves behind."""
        for m in self.modules():
            if m is not self and hasattr(m, "fuse"):
                m.fuse()
        return self


_COMMON = (Conv, Bottleneck, C3, SPPF, SPP, Focus, SPPCSPC, RepConv, MP, SP, Concat, Implicit)


def save_pt(content: Any, path: Path) -> None:
    """torch.save with the classes' names those of the official repositories."""
    fakes = {name: types.ModuleType(name) for name in ("models", "models.common", "models.yolo")}
    classes = [(c, "models.common") for c in _COMMON]
    classes += [(c, "models.yolo") for c in (Detect, IDetect, Model)]
    own = Model.__module__
    for cls, module in classes:
        cls.__module__ = module
        setattr(fakes[module], cls.__name__, cls)
    kept = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        torch.save(content, path)
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        for cls, _ in classes:
            cls.__module__ = own


def checkpoint(model: Model) -> dict[str, Any]:
    """A training checkpoint, with the odds and ends that real ones carry."""
    return {
        "epoch": -1,
        "best_fitness": np.array([0.25]),
        "fitness": np.float64(0.5),
        "model": model,
        "ema": None,
        "where": Path("runs/train"),
        "device": torch.device("cpu"),
        "optimizer": None,
    }


def save_safetensors(model: Model, path: Path, **changes: str) -> None:
    tensors = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    metadata = {
        "format": "quantcore-yolo/1",
        "yaml": json.dumps(model.yaml),
        "names": json.dumps(model.names),
        "bn_eps": str(EPS),
        "image_size": "64",
    }
    save_file(tensors, path, {k: v for k, v in (metadata | changes).items() if v})
