"""The layers the oneDNN sweeps time: convolutions of three networks, matrix products of BERT."""

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Conv:
    """A square 2D convolution of an (1, channels, size, size) input, with what follows it."""

    name: str
    channels: int
    size: int
    filters: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = ""
    residual: bool = False

    @property
    def padding(self) -> int:
        """Padding that keeps the size at stride 1."""
        return (self.kernel - 1) // 2

    @property
    def out_size(self) -> int:
        """Height and width of the result."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        """Two per multiply-add."""
        per_output = 2 * self.channels // self.groups * self.kernel**2
        return per_output * self.filters * self.out_size**2

    @property
    def shape(self) -> "Conv":
        """This layer without its name: equal for layers that are the same work."""
        return replace(self, name="")


@dataclass(frozen=True, slots=True)
class Product:
    """(rows, inner) @ (inner, columns), or `batch` such products, with what follows."""

    name: str
    rows: int
    inner: int
    columns: int
    count: int
    batch: int = 1
    activation: str = ""
    residual: bool = False

    @property
    def flops(self) -> int:
        """Two per multiply-add."""
        return 2 * self.batch * self.rows * self.inner * self.columns


def resnet50() -> Iterator[Conv]:
    """ResNet-50 at 224x224, batch norm folded."""
    yield Conv("stem", 3, 224, 64, 7, 2, activation="relu")
    size, channels = 56, 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}"
            yield Conv(f"{name}.conv1", channels, size, width, activation="relu")
            yield Conv(f"{name}.conv2", width, size, width, 3, stride, activation="relu")
            if block == 0:
                yield Conv(f"{name}.downsample", channels, size, 4 * width, 1, stride)
            size //= stride
            yield Conv(f"{name}.conv3", width, size, 4 * width, activation="relu", residual=True)
            channels = 4 * width


def resnet18() -> Iterator[Conv]:
    """ResNet-18 at 224x224, batch norm folded."""
    yield Conv("stem", 3, 224, 64, 7, 2, activation="relu")
    size, channels = 56, 64
    for stage, width in enumerate([64, 128, 256, 512], 1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}"
            yield Conv(f"{name}.conv1", channels, size, width, 3, stride, activation="relu")
            if stride == 2:
                yield Conv(f"{name}.downsample", channels, size, width, 1, stride)
            size //= stride
            yield Conv(f"{name}.conv2", width, size, width, 3, activation="relu", residual=True)
            channels = width


def mobilenetv2() -> Iterator[Conv]:
    """MobileNetV2 at 224x224, batch norm folded."""
    yield Conv("stem", 3, 224, 32, 3, 2, activation="clip")
    size, channels, index = 112, 32, 0
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    stages += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, filters, blocks, first_stride in stages:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            hidden, name = channels * expand, f"block{index}"
            if expand != 1:
                yield Conv(f"{name}.expand", channels, size, hidden, activation="clip")
            yield Conv(
                f"{name}.depthwise", hidden, size, hidden, 3, stride, hidden, activation="clip"
            )
            size //= stride
            residual = stride == 1 and channels == filters
            yield Conv(f"{name}.project", hidden, size, filters, residual=residual)
            channels, index = filters, index + 1
    yield Conv("last", 320, 7, 1280, activation="clip")


NETWORKS = {"resnet50": resnet50, "resnet18": resnet18, "mobilenetv2": mobilenetv2}


def unique(layers: Iterator[Conv]) -> dict[Conv, list[str]]:
    """Layers that are the same work, with the names of all that are."""
    found: dict[Conv, list[str]] = {}
    for layer in layers:
        found.setdefault(layer.shape, []).append(layer.name)
    return found


def bert_base(sequence: int = 128) -> Iterator[Product]:
    """BERT-base, batch 1: per layer q, k, v (apart, or as one), attention, output, two of ffn."""
    yield Product("qkv apart", sequence, 768, 768, 36)
    yield Product("qkv as one", sequence, 768, 2304, 12)
    yield Product("scores", sequence, 64, sequence, 12, batch=12)
    yield Product("context", sequence, sequence, 64, 12, batch=12)
    yield Product("output", sequence, 768, 768, 12, residual=True)
    yield Product("ffn up", sequence, 768, 3072, 12, activation="gelu")
    yield Product("ffn down", sequence, 3072, 768, 12, residual=True)
