"""A small network with every layer that is read, and what Darknet's C code computes, in loops."""

import numpy as np

EVERY_LAYER = """
# every layer
[net]
batch = 1
width=12
height=8
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=8
size=1
stride=1
pad=1
activation=relu

[shortcut]
from=-2
activation=linear

[maxpool]
size=2
stride=1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
groups=2
activation=logistic

[upsample]
stride=2

[route]
layers=-1, 3

[reorg]
stride=2

[dropout]
probability=.5

[route]
layers=-1

[convolutional]
filters=14
size=1
stride=1
pad=1
activation=linear

[region]
anchors = 1.5,2, 0.5,1
classes=2
coords=4
num=2
softmax=1
"""

CLASSIFIER = """
[network]
width=6
height=6
channels=2
[conv]
filters=4
size=3
padding=0
activation=mish
[connected]
output=5
batch_normalize=1
activation=relu
[connected]
output=3
activation=linear
[softmax]
[cost]
"""


def darknet_reorg(x, stride):
    """src/blas.c, reorg_cpu with forward = 0, on one image [c, h, w]."""
    c, h, w = x.shape
    flat, out = x.reshape(-1), np.zeros(x.size, x.dtype)
    depth = c // stride**2
    for k in range(c):
        for j in range(h):
            for i in range(w):
                offset = k // depth
                w2 = i * stride + offset % stride
                h2 = j * stride + offset // stride
                out[i + w * (j + h * k)] = flat[
                    w2 + w * stride * (h2 + h * stride * (k % depth))
                ]
    return out.reshape(c * stride**2, h // stride, w // stride)


def darknet_maxpool(x, size, stride, padding):
    """src/maxpool_layer.c, forward_maxpool_layer on one image [c, h, w]."""
    c, h, w = x.shape
    high, wide = (h + padding - size) // stride + 1, (w + padding - size) // stride + 1
    out = np.full((c, high, wide), -np.finfo(np.float32).max, x.dtype)
    for k in range(c):
        for i in range(high):
            for j in range(wide):
                for n in range(size):
                    for m in range(size):
                        row = -(padding // 2) + i * stride + n
                        column = -(padding // 2) + j * stride + m
                        if 0 <= row < h and 0 <= column < w:
                            out[k, i, j] = max(out[k, i, j], x[k, row, column])
    return out


def darknet_region(x, anchors, classes):
    """src/region_layer.c on one image [a*(5+classes), h, w]: boxes and scores."""
    count, (_, h, w) = len(anchors), x.shape
    fields = x.reshape(count, 5 + classes, h, w).astype(np.float64)
    boxes, scores = np.zeros((count, h, w, 4)), np.zeros((count, h, w, classes))

    def logistic(value):
        return 1 / (1 + np.exp(-value))

    for n in range(count):
        for j in range(h):
            for i in range(w):
                tx, ty, tw, th, confidence = fields[n, :5, j, i]
                bx, by = (i + logistic(tx)) / w, (j + logistic(ty)) / h
                bw, bh = np.exp(tw) * anchors[n][0] / w, np.exp(th) * anchors[n][1] / h
                boxes[n, j, i] = bx - bw / 2, by - bh / 2, bx + bw / 2, by + bh / 2
                raw = np.exp(fields[n, 5:, j, i] - fields[n, 5:, j, i].max())
                scores[n, j, i] = logistic(confidence) * raw / raw.sum()
    return boxes.reshape(-1, 4), scores.reshape(-1, classes)
