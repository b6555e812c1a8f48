"""The zoo: named models with inputs, at random weights that hide no error.

    model, inputs = zoo.build("torchvision/resnet50")
    model, inputs = zoo.build("small/resnet18")

``FULL`` is what the sweep runs, ``SMALL`` what every test run can afford. Names are
``family/model``; the same name gives the same weights and inputs.
"""

import zlib

import torch
import zoo_language as language
import zoo_vision as vision
from torch import nn
from zoo_weights import Inputs, call, randomise

__all__ = ["FULL", "SMALL", "Inputs", "batched", "build", "call"]

FULL: dict[str, vision.Factory] = vision.full_size() | language.full_size()

SMALL: dict[str, vision.Factory] = {
    "small/resnet18": vision.classifier("resnet18", 64),
    "small/resnext50": vision.classifier("resnext50_32x4d", 64),
    "small/mobilenet_v2": vision.classifier("mobilenet_v2", 64),
    "small/mobilenet_v3": vision.classifier("mobilenet_v3_small", 64),
    "small/googlenet": vision.classifier("googlenet", 64),
    "small/densenet121": vision.classifier("densenet121", 64),
    "small/shufflenet": vision.classifier("shufflenet_v2_x0_5", 64),
    "small/squeezenet": vision.classifier("squeezenet1_1", 64),
    "small/efficientnet": vision.classifier("efficientnet_b0", 64),
    "small/regnet": vision.classifier("regnet_y_400mf", 64),
    "small/vgg11_bn": vision.classifier("vgg11_bn", 64, num_classes=10),
    "small/convnext": vision.classifier("convnext_tiny", 64),
    "small/vit": vision.small_vit,
    "small/swin": vision.small_swin,
    "small/deeplabv3": vision.segmentation("deeplabv3_mobilenet_v3_large", 96),
    "small/fcn": vision.segmentation("fcn_resnet50", 64),
    "small/lraspp": vision.segmentation("lraspp_mobilenet_v3_large", 64),
    "small/r2plus1d": vision.video("r2plus1d_18", (4, 32, 32)),
    "small/unet": vision.unet("resnet18", 64),
    "small/bert": language.encoder("BertModel", "BertConfig", 24, num_hidden_layers=2),
    "small/gpt2": language.decoder("GPT2LMHeadModel", "GPT2Config", 16, n_layer=2, vocab_size=1000),
    "small/t5": language.t5(2, 16),
    "small/llama": language.decoder(
        "LlamaForCausalLM", "LlamaConfig", 16, hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=1000,
    ),
    "small/lstm_tagger": language.tagger(nn.LSTM, 32, 12),
    "small/gru_reader": language.reader(nn.GRU, 8),
}


def build(name: str) -> tuple[nn.Module, Inputs]:
    """The model, in eval mode, and its inputs at batch 1. KeyError for an unknown name."""
    factory = SMALL[name] if name in SMALL else FULL[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    model, inputs = factory()
    return randomise(model, inputs), inputs


def batched(inputs: Inputs, batch: int, axis: int = 0) -> Inputs:
    """Inputs of another batch size: the given ones in other orders of their elements."""
    match inputs:
        case dict():
            return {name: _repeat(tensor, batch, axis) for name, tensor in inputs.items()}
        case tuple():
            return tuple(_repeat(tensor, batch, axis) for tensor in inputs)
    return _repeat(inputs, batch, axis)


def _repeat(tensor: torch.Tensor, batch: int, axis: int) -> torch.Tensor:
    """Item i is the tensor rolled by i along its last axis: valid ids, masks and pixels."""
    return torch.cat([tensor.roll(i, -1) for i in range(batch)], axis)
