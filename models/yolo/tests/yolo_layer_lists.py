"""Layer lists of the detectors, generated; for tests."""

from __future__ import annotations

from typing import Any

Rows = list[list[Any]]

ANCHORS5 = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
ANCHORS7 = [[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]]


def describe(
    backbone: Rows, head: Rows, anchors: list[list[int]], width: float, depth: float, nc: int
) -> dict[str, Any]:
    return {
        "nc": nc,
        "depth_multiple": depth,
        "width_multiple": width,
        "anchors": anchors,
        "backbone": backbone,
        "head": head,
        "ch": 3,
    }


def yolov5(width: float = 0.125, depth: float = 0.33, nc: int = 3) -> dict[str, Any]:
    backbone: Rows = [[-1, 1, "Conv", [64, 6, 2, 2]]]
    for channels, repeats in ((128, 3), (256, 6), (512, 9), (1024, 3)):
        backbone += [[-1, 1, "Conv", [channels, 3, 2]], [-1, repeats, "C3", [channels]]]
    backbone.append([-1, 1, "SPPF", [1024, 5]])
    head: Rows = []
    for channels, lateral in ((512, 6), (256, 4)):
        head += [
            [-1, 1, "Conv", [channels, 1, 1]],
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
            [[-1, lateral], 1, "Concat", [1]],
            [-1, 3, "C3", [channels, False]],
        ]
    for channels, lateral in ((256, 14), (512, 10)):
        head += [
            [-1, 1, "Conv", [channels, 3, 2]],
            [[-1, lateral], 1, "Concat", [1]],
            [-1, 3, "C3", [2 * channels, False]],
        ]
    head.append([[17, 20, 23], 1, "Detect", ["nc", "anchors"]])
    return describe(backbone, head, ANCHORS5, width, depth, nc)


def old_yolov5(width: float = 0.125, nc: int = 3) -> dict[str, Any]:
    """With Focus and SPP, as YOLOv5 was before its version 6."""
    model = yolov5(width, 0.33, nc)
    model["backbone"][0] = [-1, 1, "Focus", [64, 3]]
    model["backbone"][9] = [-1, 1, "SPP", [1024, [5, 9, 13]]]
    return model


def _stack(inner: int, out: int, convs: int, taps: list[int], kernel: int | None = None) -> Rows:
    rows: Rows = [
        [-1, 1, "Conv", [kernel or inner, 1, 1]],
        [-2, 1, "Conv", [kernel or inner, 1, 1]],
    ]
    rows += [[-1, 1, "Conv", [inner, 3, 1]] for _ in range(convs)]
    return [*rows, [taps, 1, "Concat", [1]], [-1, 1, "Conv", [out, 1, 1]]]


def _down(channels: int, extra: list[int] | None = None) -> Rows:
    return [
        [-1, 1, "MP", []],
        [-1, 1, "Conv", [channels, 1, 1]],
        [-3, 1, "Conv", [channels, 1, 1]],
        [-1, 1, "Conv", [channels, 3, 2]],
        [[-1, -3, *(extra or [])], 1, "Concat", [1]],
    ]


def yolov7(width: float = 0.0625, nc: int = 3) -> dict[str, Any]:
    taps, head_taps = [-1, -3, -5, -6], [-1, -2, -3, -4, -5, -6]
    backbone: Rows = [[-1, 1, "Conv", [32, 3, 1]], [-1, 1, "Conv", [64, 3, 2]]]
    backbone += [[-1, 1, "Conv", [64, 3, 1]], [-1, 1, "Conv", [128, 3, 2]]]
    backbone += _stack(64, 256, 4, taps) + _down(128) + _stack(128, 512, 4, taps)
    backbone += _down(256) + _stack(256, 1024, 4, taps) + _down(512) + _stack(256, 1024, 4, taps)
    head: Rows = [[-1, 1, "SPPCSPC", [512]]]
    for channels, lateral in ((256, 37), (128, 24)):
        head += [[-1, 1, "Conv", [channels, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]]
        head += [[lateral, 1, "Conv", [channels, 1, 1]], [[-1, -2], 1, "Concat", [1]]]
        head += _stack(channels // 2, channels, 4, head_taps, channels)
    for channels, lateral in ((128, 63), (256, 51)):
        head += _down(channels, [lateral])
        head += _stack(channels, 2 * channels, 4, head_taps, 2 * channels)
    for channels, source in ((256, 75), (512, 88), (1024, 101)):
        head.append([source, 1, "RepConv", [channels, 3, 1]])
    head.append([[102, 103, 104], 1, "IDetect", ["nc", "anchors"]])
    return describe(backbone, head, ANCHORS7, width, 1.0, nc)


def yolov7x(width: float = 0.05, nc: int = 3) -> dict[str, Any]:
    taps = [-1, -3, -5, -7, -8]
    backbone: Rows = [[-1, 1, "Conv", [40, 3, 1]], [-1, 1, "Conv", [80, 3, 2]]]
    backbone += [[-1, 1, "Conv", [80, 3, 1]], [-1, 1, "Conv", [160, 3, 2]]]
    backbone += _stack(64, 320, 6, taps) + _down(160) + _stack(128, 640, 6, taps)
    fine = len(backbone) - 1
    backbone += _down(320) + _stack(256, 1280, 6, taps)
    middle = len(backbone) - 1
    backbone += _down(640) + _stack(256, 1280, 6, taps)
    head: Rows = [[-1, 1, "SPPCSPC", [640]]]
    ends = [len(backbone)]
    for channels, lateral in ((320, middle), (160, fine)):
        head += [[-1, 1, "Conv", [channels, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]]
        head += [[lateral, 1, "Conv", [channels, 1, 1]], [[-1, -2], 1, "Concat", [1]]]
        head += _stack(channels * 4 // 5, channels, 6, taps)
        ends.append(len(backbone) + len(head) - 1)
    outputs = [ends[2]]
    for channels, lateral in ((160, ends[1]), (320, ends[0])):
        head += _down(channels, [lateral]) + _stack(channels * 8 // 5, 2 * channels, 6, taps)
        outputs.append(len(backbone) + len(head) - 1)
    last = len(backbone) + len(head)
    for channels, source in zip((320, 640, 1280), outputs, strict=True):
        head.append([source, 1, "Conv", [channels, 3, 1]])
    head.append([[last, last + 1, last + 2], 1, "IDetect", ["nc", "anchors"]])
    return describe(backbone, head, ANCHORS7, width, 1.0, nc)


def tiny_like(width: float = 0.25, nc: int = 3) -> dict[str, Any]:
    """The modules of yolov7-tiny in a short network: LeakyReLU, MP, SP, IDetect."""

    def conv(channels: int, kernel: int, stride: int = 1, source: int = -1) -> list[Any]:
        return [source, 1, "Conv", [channels, kernel, stride, "None", 1, "nn.LeakyReLU(0.1)"]]

    backbone: Rows = [conv(32, 3, 2), conv(64, 3, 2), conv(32, 1), conv(32, 1, source=-2)]
    backbone += [conv(32, 3), conv(32, 3), [[-1, -2, -3, -4], 1, "Concat", [1]], conv(64, 1)]
    backbone += [[-1, 1, "MP", []], conv(64, 3), [-1, 1, "MP", []], [-1, 1, "MP", []]]
    head: Rows = [conv(64, 1), [-1, 1, "SP", [5]], [-2, 1, "SP", [9]], [-3, 1, "SP", [13]]]
    head += [[[-1, -2, -3, -4], 1, "Concat", [1]], conv(128, 1)]
    head += [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], conv(64, 1)]
    head += [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], conv(64, 1)]
    head.append([[21, 19, 17], 1, "IDetect", ["nc", "anchors"]])
    return describe(backbone, head, ANCHORS5, width, 1.0, nc)
