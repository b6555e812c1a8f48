"""Random weights under which a wrong engine shows: nothing is left at 0, 1 or another constant."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Inputs = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]


def randomise(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The model in eval mode, with telling parameters and BatchNorm statistics. In place.

    Parameters that an initialiser left constant (biases 0, norm weights 1, layer scales 1e-6,
    zeroed heads) are drawn at random: at their initial values they fold into nothing. BatchNorm
    statistics are drawn around the size that activations have for ``inputs``, so that they neither
    vanish nor explode in deep networks.
    """
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and _is_constant(parameter):
                _draw(parameter)
        _settle(model, inputs)
    return model


def _is_constant(parameter: torch.Tensor) -> bool:
    first = parameter.flatten()[:1]
    return parameter.numel() > 1 and bool((parameter == first).all())


def _draw(parameter: torch.Tensor) -> None:
    if float(parameter.flatten()[0]) == 0:
        parameter.normal_(0.0, 0.1 if parameter.dim() == 1 else 0.02)
    else:
        parameter.uniform_(0.5, 1.5)


def _settle(model: nn.Module, inputs: Inputs) -> None:
    """Give every BatchNorm statistics of the size of its inputs."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    handles = [norm.register_forward_pre_hook(_measure) for norm in norms]
    call(model, inputs)
    for handle in handles:
        handle.remove()


def _measure(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    assert isinstance(norm, _BatchNorm)
    if norm.running_mean is None or norm.running_var is None:
        return
    (x,) = args
    mean = x.mean([axis for axis in range(x.dim()) if axis != 1])
    spread = x.square().mean().clamp(min=1e-6)
    # Taking off the whole mean, or scaling every channel to the same variance, would magnify
    # rounding errors layer after layer until eager itself is off.
    norm.running_mean.copy_(0.3 * mean + 0.1 * spread.sqrt() * torch.randn_like(mean))
    norm.running_var.copy_(spread * (0.7 + 0.6 * torch.rand_like(mean)))


def call(model: nn.Module, inputs: Inputs) -> object:
    """The model's outputs for inputs as `torch2rt.convert` takes them."""
    with torch.no_grad():
        match inputs:
            case dict():
                return model(**inputs)
            case tuple():
                return model(*inputs)
        return model(inputs)
