"""Changes of layout between the steps of a plan: which way is fastest, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec, canonical_layout
from torch2rt.build.action import Action, Key
from torch2rt.build.measure import Measure, Option
from torch2rt.engine.plan import REFORMAT
from torch2rt.engine.specs import tensor_spec
from torch2rt.errors import NoTacticError
from torch2rt.layers.reformat import Reformat
from torch2rt.network.tensor import Tensor

# The cost of a reformat that no tactic does: more than any network takes.
IMPOSSIBLE_US = 1e12


class Reformats:
    """The fastest reformat for every pair of layouts, measured when first asked for."""

    def __init__(self, measure: Measure, symbols: Mapping[str, int]) -> None:
        self._measure = measure
        self._symbols = symbols
        self._found: dict[tuple[TensorSpec, Layout], Option | None] = {}

    def time_us(self, tensor: Tensor, source: Layout, target: Layout) -> float:
        """What it takes from one layout to another; 0 where both mean the same bytes."""
        spec = tensor_spec(tensor, self._symbols)
        if canonical_layout(spec.with_layout(source)) == canonical_layout(spec.with_layout(target)):
            return 0.0
        option = self._find(spec.with_layout(source), target)
        return option.time_us if option is not None else IMPOSSIBLE_US

    def action(self, source: Key, target: Key) -> Action:
        """A reformat from one value to another. NoTacticError where this backend has none."""
        spec = tensor_spec(source.tensor, self._symbols).with_layout(source.layout)
        option = self._find(spec, target.layout)
        if option is None:
            raise NoTacticError(
                backend=self._measure.backend.name, layer=REFORMAT, kind=REFORMAT,
                where=source.tensor.name,
                reasons=f"  nothing goes from {spec} to {target.layout.value}",
            )
        return Action("", option, [source], [target], option.spec, option.time_us)

    def forget(self) -> None:
        """Ask again: an option has turned out not to work."""
        self._found.clear()

    def _find(self, source: TensorSpec, target: Layout) -> Option | None:
        """The fastest way from one layout to another, None where this backend has none."""
        if (source, target) not in self._found:
            spec = LayerSpec(
                REFORMAT, REFORMAT, Reformat(source.dtype), None,
                (source,), (source.with_layout(target),), (None,),
            )
            wanted = LayoutChoice((source.layout,), (target,))
            ways = [o for o in self._measure.options(spec) if o.choice == wanted]
            self._found[source, target] = ways[0] if ways else None
        return self._found[source, target]
