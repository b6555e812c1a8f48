"""`torch2rt.Network`: a network written layer by layer, and the engine made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch2rt.build.timing_cache import TimingCache
from torch2rt.definition.matrices import MatrixLayers
from torch2rt.definition.plugins import PluginLayers
from torch2rt.definition.pointwise import PointwiseLayers
from torch2rt.definition.windows import WindowLayers
from torch2rt.engine.engine import Engine
from torch2rt.network.text import text


class Network(PointwiseLayers, WindowLayers, MatrixLayers, PluginLayers):
    """A network written layer by layer. Every ``add_`` returns the tensor it makes.

        network = torch2rt.Network("lenet")
        x = network.add_input("x", ("batch", 1, 28, 28))
        x = network.add_convolution(x, weight, bias, padding=2)
        x = network.add_activation(x, "relu")
        network.mark_output(network.add_flatten(x), "y")
        engine = network.build()
        y = engine.run({"x": array})["y"]

    Weights are numpy arrays or tensors of torch. DefinitionError names a layer whose operands do
    not fit. `add_layer` takes any kind of `torch2rt.layers`.
    """

    def build(
        self,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        profiles: Sequence[Mapping[str, Sequence[int]]] = (),
        timing_cache: str | os.PathLike[str] | TimingCache | None = None,
        threads: int | None = None,
        tune_budget_s: float | None = None,
        verify: bool = True,
    ) -> Engine:
        """Optimise the network and make an engine of it; the network stays as it is.

        Args:
            precision: ``"fp32"``, ``"bf16"`` or ``"int8_weights"``, and on CUDA ``"fp16"`` or
                ``"tf32"``.
            device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
            profiles: shapes to tune for, by input name; default: open sizes at their smallest.
            timing_cache: file of measured times; default: one in the user's cache folder.
            threads: CPU threads; default: all cores this process may use.
            tune_budget_s: seconds that may be spent on timing.
            verify: compare the engine with the layers' references on random inputs.

        Raises:
            ConfigError: an option has an unusable value.
            DefinitionError: the network has no output.
            VerificationError: the engine disagrees with the references; names the layer.
        """
        from torch2rt.definition.build import Options, build_network

        return build_network(self.graph, Options(
            precision, device, profiles, timing_cache, threads, tune_budget_s, verify
        ))

    def __str__(self) -> str:
        return text(self.graph)
