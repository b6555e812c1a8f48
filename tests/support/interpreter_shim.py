"""What Triton's interpreter lacks: libdevice, scalars under NumPy 2.4, rounding to float8.

That NumPy no longer makes an int of an array of one element, as Triton 3.6 asks. Its own float8
is rounded up from the middle, and not carried into the exponent; here torch rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter

_FUNCTIONS = {
    "pow": np.power, "atan2": np.arctan2, "fmod": np.fmod, "rint": np.rint, "trunc": np.trunc,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
}


def install() -> None:
    """Put NumPy's functions where generated programs import them from; mend scalars, float8."""
    for name, function in _FUNCTIONS.items():
        setattr(libdevice, name, _wrap(function))
    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend
    convert = interpreter._convert_float

    def convert_and_round(x: Any, source: Any, target: Any, mode: Any) -> Any:
        if target != tl.float8e4nv or x.dtype not in (np.float32, np.float16):
            return convert(x, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(x)).clamp(-448, 448)
        return rounded.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(x.shape)

    interpreter._convert_float = convert_and_round


def _wrap(function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        tensor = next(a for a in arguments if isinstance(a, tl.tensor))
        data = [a.handle.data if isinstance(a, tl.tensor) else np.float32(a) for a in arguments]
        with np.errstate(all="ignore"):
            result = np.asarray(function(*data), np.float32)
        return tl.tensor(interpreter.TensorHandle(result, tl.float32), tensor.type)

    return call
