"""A plugin from a function: deformable convolution, whose weights are the model's.

On a GPU the kernel runs, on a CPU the body:

    python examples/03_plugin_deformable_convolution.py
"""

import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.plugin import CudaKernel, ceil_div, count

SOURCE = r"""
extern "C" __global__ void deform(const float* x, const float* offset, const float* w, float* y,
                                  int total, int c, int h, int wd, int k, int r) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, p = i / wd % h, q = i % wd;
    if (i >= total) return;
    const int area = h * wd, n = i / area / k; float sum = 0.0f;
    for (int tap = 0; tap < r * r; ++tap) for (int corner = 0; corner < 4; ++corner) {
        const float* o = offset + (n * r * r + tap) * 2 * area + i % area;
        const float v = p + tap / r - r / 2 + o[0], u = q + tap % r - r / 2 + o[area];
        const int a = (int)floorf(v) + corner / 2, b = (int)floorf(u) + corner % 2;
        if (a >= 0 && a < h && b >= 0 && b < wd) for (int s = 0; s < c; ++s)
            sum += (1 - fabsf(v - a)) * (1 - fabsf(u - b)) * x[(n * c + s) * area + a * wd + b]
                * w[(i / area % k * c + s) * r * r + tap];
    }
    y[i] = sum;
}"""


@torch2rt.plugin("demo::deform", cuda=CudaKernel(
    SOURCE, "deform", grid=lambda shapes, _: ceil_div(count(shapes.outputs[0]), 256),
    numbers=lambda s, _: [count(s.outputs[0]), *s.inputs[0][1:], s.inputs[2][0], s.inputs[2][2]],
))
def deform(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    h, w, r = x.shape[2], x.shape[3], weight.shape[2]
    total = torch.zeros_like(x[:, :1])
    for tap in range(r * r):
        v = torch.arange(h)[:, None].to(x) + tap // r - r // 2 + offset[:, 2 * tap]
        u = torch.arange(w).to(x) + tap % r - r // 2 + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * u / (w - 1), 2 * v / (h - 1)], -1) - 1
        moved = nn.functional.grid_sample(x, grid, align_corners=True)
        total = total + torch.einsum("nchw,kc->nkhw", moved, weight[:, :, tap // r, tap % r])
    return total


class Network(nn.Module):
    """Offsets from a convolution, then the plugin."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] -> [n, 8, h, w]."""
        return torch.relu(deform(x, self.offset(x), self.weight))


def model_and_input() -> tuple[nn.Module, Tensor]:
    """What the example converts."""
    torch.manual_seed(0)
    return Network().eval(), torch.randn(2, 3, 20, 24)


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, x = (item.to(device) for item in model_and_input())
    rt = torch2rt.convert(model, x)
    print("largest difference", float((rt(x) - model(x)).detach().abs().max()))
