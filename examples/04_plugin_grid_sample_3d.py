"""A plugin from a function: grid_sample of volumes, trilinear, zeros outside.

Its body is torch's own operator:

    python examples/04_plugin_grid_sample_3d.py
"""

import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.plugin import CudaKernel, ceil_div, count

SOURCE = r"""
extern "C" __global__ void sample(const float* x, const float* grid, float* y, int total, int c,
                                  int d, int h, int w, int points, int aligned) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, size[3] = {w, h, d};
    if (i >= total) return;
    const float* g = grid + 3 * (i / points / c * points + i % points);
    float at[3], sum = 0.0f;
    for (int axis = 0; axis < 3; ++axis)
        at[axis] = ((g[axis] + 1) * (size[axis] - aligned) - 1 + aligned) / 2;
    for (int corner = 0; corner < 8; ++corner) {
        float share = 1.0f;
        int place[3];
        for (int axis = 0; axis < 3; ++axis) {
            place[axis] = (int)floorf(at[axis]) + (corner >> axis & 1);
            share *= place[axis] < 0 || place[axis] >= size[axis]
                ? 0.0f : 1 - fabsf(at[axis] - place[axis]);
        }
        if (share != 0.0f)
            sum += share * x[((i / points * d + place[2]) * h + place[1]) * w + place[0]];
    }
    y[i] = sum;
}"""


@torch2rt.plugin("demo::grid_sample_3d", cuda=CudaKernel(
    SOURCE, "sample", grid=lambda shapes, _: ceil_div(count(shapes.outputs[0]), 256),
    numbers=lambda shapes, attributes: [count(shapes.outputs[0]), *shapes.inputs[0][1:],
                                        count(shapes.outputs[0][2:]), attributes["aligned"]],
))
def grid_sample_3d(x: Tensor, grid: Tensor, aligned: bool) -> Tensor:
    return nn.functional.grid_sample(x, grid, align_corners=aligned)


class Network(nn.Module):
    """A volume that is moved by a field."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Conv3d(2, 3, 3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """Volume [n, 2, d, h, w] -> the same."""
        grid = torch.tanh(self.field(volume)).permute(0, 2, 3, 4, 1)
        return grid_sample_3d(volume, grid, False) + 1


def model_and_input() -> tuple[nn.Module, Tensor]:
    """What the example converts."""
    torch.manual_seed(0)
    return Network().eval(), torch.randn(2, 2, 6, 7, 8)


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, x = (item.to(device) for item in model_and_input())
    rt = torch2rt.convert(model, x)
    print("largest difference", float((rt(x) - model(x)).detach().abs().max()))
