"""Space to depth: every ``stride`` x ``stride`` block of pixels becomes channels of one pixel.

Three orders of the new channels are in use:

| order | new channel of channel c and pixel (y, x) of the block | whose |
|---|---|---|
| ``"pixel_unshuffle"`` | c*s*s + y*s + x | torch.nn.PixelUnshuffle |
| ``"blocks"`` | (y*s + x)*C + c | ONNX SpaceToDepth, TensorFlow |
| ``"darknet"`` | none: see `reorg_in_torch` | Darknet's ``[reorg]`` |
"""

from torch2rt.plugins.reorg.plugin import ORDERS, Reorg, reorg, reorg_in_torch

__all__ = ["ORDERS", "Reorg", "reorg", "reorg_in_torch"]
