"""torchvision's own operators with the shipped kernels.

    from torch2rt.plugins import torchvision_operators

    torchvision_operators.register()       # models that call torchvision.ops then need no change

`roi_align` and `deform_conv2d` keep torchvision's code as their reference and on CPUs, and on a GPU
run as the kernels of `torch2rt.plugins`. Without this they run through PyTorch, as fallback layers.
"""

from torch2rt.plugins.torchvision_operators.operators import OPERATORS, register, unregister

__all__ = ["OPERATORS", "register", "unregister"]
