"""A plugin from a function: a leaky integrator, v[t] = decay * v[t-1] + x[t].

    python examples/02_plugin_leaky_integrator.py

The body in torch is the reference, and what runs on a CPU. On a GPU the kernel runs; its source
travels in the engine file.
"""

import torch
from torch import Tensor, nn

import torch2rt
from torch2rt.plugin import CudaKernel, ceil_div, count

SOURCE = r"""
extern "C" __global__ void leaky(const float* x, float* v, int n, int steps, int c, float decay) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * c) return;
    const long long first = (long long)(i / c) * steps * c + i % c;
    float state = 0.0f;
    for (int t = 0; t < steps; ++t) v[first + t * c] = state = decay * state + x[first + t * c];
}"""


@torch2rt.plugin("demo::leaky", fake=lambda x, decay: torch.empty_like(x), cuda=CudaKernel(
    SOURCE, "leaky", grid=lambda shapes, _: ceil_div(count(shapes.inputs[0][::2]), 256),
    numbers=lambda shapes, attributes: [*shapes.inputs[0], attributes["decay"]],
))
def leaky(x: Tensor, decay: float) -> Tensor:
    """Inputs [n, t, c] -> states [n, t, c]."""
    states = [x[:, 0]]
    for step in x.unbind(1)[1:]:
        states.append(decay * states[-1] + step)
    return torch.stack(states, 1)


class Network(nn.Module):
    """A plugin between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Steps [n, t, 16] -> [n, t, 4]."""
        return self.last(torch.relu(leaky(self.first(x), 0.9)))


def model_and_input() -> tuple[nn.Module, Tensor]:
    """What the example converts."""
    torch.manual_seed(0)
    return Network().eval(), torch.randn(4, 50, 16)


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, x = (item.to(device) for item in model_and_input())
    rt = torch2rt.convert(model, x)
    print("largest difference", float((rt(x) - model(x)).detach().abs().max()))
    print(rt.report())
