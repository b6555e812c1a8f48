"""A user's layer: what an engine keeps of a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch2rt.errors import PluginError
from torch2rt.extension.registry import Definition, PluginCall, required
from torch2rt.extension.user_code import call_user, described
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim, SymbolicDim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

# Ways to run a plugin that need its package.
HOST_WAYS = ("cpu", "cupy", "enqueue", "capturable")
_CUDA_FIELDS = 6
_TRITON_FIELDS = 9


@dataclass(frozen=True)
class Plugin(LayerKind):
    """outputs = the plugin ``plugin`` on the inputs, as its torch body computes them.

    ``arguments`` and ``state`` are those of a `PluginCall`. ``outputs`` are the types of the
    results. ``cuda`` and ``triton`` are rival ways to run it, each a tuple of launches:
    (source, entry, grid, block, shared bytes, numbers) and
    (source, entry, parameter names, constants, warps, stages, grid, numbers, workspace types).
    A number is an int, a float or ``("int64", int)``. ``host`` names the ways that are Python of
    ``package``. ``workspace`` counts bytes; ``precisions`` are the dtypes it computes in. An input
    whose entry in ``scales`` is not 0 is stored in 8 bits, and means these times the scale.
    Source: the user's code.
    """

    name: ClassVar[str] = "plugin"
    plugin: str
    version: str
    package: str
    outputs: tuple[TensorType, ...]
    arguments: tuple[Any, ...] = ()
    state: str = ""
    cuda: tuple[tuple[Any, ...], ...] = ()
    triton: tuple[tuple[Any, ...], ...] = ()
    host: tuple[str, ...] = ()
    workspace: Dim = 0
    precisions: tuple[DType, ...] = (DType.FLOAT32,)
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = (self.plugin, self.version, self.package, self.state)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a plugin's name, version, package and state are texts")
        if not all(isinstance(output, TensorType) for output in self.outputs):
            raise ValueError(f"plugin {self.plugin}: outputs are no tensor types")
        if not set(self.host) <= set(HOST_WAYS):
            raise ValueError(f"plugin {self.plugin}: unknown ways {self.host}")
        if not all(isinstance(dtype, DType) for dtype in self.precisions):
            raise ValueError(f"plugin {self.plugin}: precisions are no dtypes")
        if not isinstance(self.workspace, int | SymbolicDim):
            raise ValueError(f"plugin {self.plugin}: its workspace is no size")
        if not all(isinstance(scale, float) for scale in self.scales):
            raise ValueError(f"plugin {self.plugin}: scales are no numbers")
        for ways, count, sizes in (
            (self.cuda, _CUDA_FIELDS, (2, 3)), (self.triton, _TRITON_FIELDS, (6,)),
        ):
            if not all(isinstance(way, tuple) for way in ways) or not all(
                _is_launch(launch, count, sizes) for way in ways for launch in way
            ):
                raise ValueError(f"plugin {self.plugin}: a launch is damaged")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The types seen at capture."""
        return self.outputs

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The plugin's own code. PluginMissingError where it is not registered.

        PluginError where it raises, or returns other shapes than it did at capture.
        """
        call = PluginCall(self.arguments, self.state)
        run = self.definition().run
        pairs = zip(inputs, self.scales or (0.0,) * len(inputs), strict=True)
        values = [  # autograd does not follow what a plugin does
            x.detach().to(torch.float32) * scale if scale else x.detach() for x, scale in pairs
        ]
        found = tuple(call_user(self.plugin, "its body", run, call, values, shown=values))
        shapes = [tuple(item.shape) for item in found]
        wanted = [output.shape for output in self.outputs]
        if all(output.is_static for output in self.outputs) and shapes != wanted:
            raise PluginError(
                name=self.plugin, where="", reason=f"its body returns shapes {shapes} for "
                f"{described(values)}, and {wanted} on tensors without data",
                remedy="Shapes may depend on shapes alone; give fake=... where they do not",
            )
        return found

    def definition(self) -> Definition:
        """The registered plugin. PluginMissingError says what to register."""
        return required(self.plugin, self.version, self.package)

    def computes_in(self, dtype: DType) -> bool:
        """Whether the plugin says that it takes this float dtype."""
        return dtype in self.precisions

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Unknown: counted as none."""
        return 0


def _is_launch(launch: Any, count: int, sizes: Sequence[int]) -> bool:
    """Whether it has so many parts: two texts first, and three sizes at these positions."""
    return (
        isinstance(launch, tuple) and len(launch) == count
        and all(isinstance(text, str) for text in launch[:2])
        and all(isinstance(launch[at], tuple) and len(launch[at]) == 3 for at in sizes)
    )

