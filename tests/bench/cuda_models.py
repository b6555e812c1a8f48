"""The models of the CUDA bars at any batch, at random weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
BERT_SEQUENCE = 384


def resnet50(batch: int) -> tuple[nn.Module, Inputs]:
    return _classifier("resnet50", batch)


def mobilenet_v2(batch: int) -> tuple[nn.Module, Inputs]:
    return _classifier("mobilenet_v2", batch)


def googlenet(batch: int) -> tuple[nn.Module, Inputs]:
    return _classifier("googlenet", batch, aux_logits=False, init_weights=False)


def vit_b_16(batch: int) -> tuple[nn.Module, Inputs]:
    return _classifier("vit_b_16", batch)


def bert_base(batch: int) -> tuple[nn.Module, Inputs]:
    """Token ids and a mask that hides nothing, as a user passes them."""
    model, ids = _bert(batch)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def bert_base_no_mask(batch: int) -> tuple[nn.Module, Inputs]:
    """Token ids alone."""
    model, ids = _bert(batch)
    return model, {"input_ids": ids}


MODELS: dict[str, Callable[[int], tuple[nn.Module, Inputs]]] = {
    make.__name__: make
    for make in (resnet50, mobilenet_v2, googlenet, vit_b_16, bert_base, bert_base_no_mask)
}


def make(name: str, batch: int, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A model in eval mode and its inputs, the same for the same seed."""
    torch.manual_seed(seed)
    model, inputs = MODELS[name](batch)
    for module in model.modules():
        _randomise(module)
    return model.eval(), inputs


def _randomise(module: nn.Module) -> None:
    """Make vectors and what is zero random: torch starts biases at zero, which fusions remove."""
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1 and name == "weight":
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 1 or not parameter.any():
                parameter.normal_(std=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def _bert(batch: int) -> tuple[nn.Module, torch.Tensor]:
    import torchvision_shim  # noqa: F401  (transformers imports torchvision where it finds it)
    from transformers import BertConfig, BertModel

    config = BertConfig()
    return BertModel(config), torch.randint(0, config.vocab_size, (batch, BERT_SEQUENCE))


def _classifier(name: str, batch: int, **options: bool) -> tuple[nn.Module, Inputs]:
    import torchvision_shim  # noqa: F401  (must come before torchvision)
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, **options)
    return model, (torch.randn(batch, 3, 224, 224),)
