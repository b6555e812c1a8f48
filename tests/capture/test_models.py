"""Small, randomly initialised models of each family: the captured graph equals eager."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision_shim
from torch import nn
from torchvision import models
from torchvision.models import segmentation, video
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.swin_transformer import SwinTransformer

from torch2rt.calls.pytree import OutputSpec
from torch2rt.capture import CapturedGraph, capture
from torch2rt.capture.check import difference

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
IMAGE = (1, 3, 32, 32)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


def classifier(name: str) -> Callable[[], Call]:
    return lambda: (models.get_model(name, weights=None), (torch.randn(IMAGE),), {})


def swin() -> Call:
    model = SwinTransformer([2, 2], 12, [2, 2], [1, 2], [4, 4], num_classes=5)
    return model, (torch.randn(IMAGE),), {}


def vit() -> Call:
    model = models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=5)
    return model, (torch.randn(IMAGE),), {}


def deeplab() -> Call:
    backbone = IntermediateLayerGetter(models.resnet18(weights=None), {"layer4": "out"})
    model = segmentation.DeepLabV3(backbone, DeepLabHead(512, 5))
    return model, (torch.randn(IMAGE),), {}


def r2plus1d() -> Call:
    model = video.VideoResNet(
        video.resnet.BasicBlock, [video.resnet.Conv2Plus1D] * 4, [1, 1, 1, 1],
        video.resnet.R2Plus1dStem,
    )
    return model, (torch.randn(1, 3, 2, 16, 16),), {}


def unet() -> Call:
    import segmentation_models_pytorch

    model = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None)
    return model, (torch.randn(IMAGE),), {}


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 20, shape)


def bert() -> Call:
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        vocab_size=20,
    )
    mask = torch.ones(1, 6, dtype=torch.long)
    mask[:, 4:] = 0
    return transformers.BertModel(config), (), {"input_ids": tokens(1, 6), "attention_mask": mask}


def gpt2() -> Call:
    import transformers

    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=20, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config), (tokens(1, 6),), {}


def t5() -> Call:
    import transformers

    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=20
    )
    inputs = {"input_ids": tokens(2, 6), "decoder_input_ids": tokens(2, 3), "use_cache": False}
    return transformers.T5ForConditionalGeneration(config), (), inputs


FAMILIES: dict[str, Callable[[], Call]] = {
    "shufflenet": classifier("shufflenet_v2_x0_5"),
    "swin": swin,
    "vit": vit,
    "deeplab": deeplab,
    "r2plus1d": r2plus1d,
    "bert": bert,
    "gpt2": gpt2,
    "t5": t5,
    "lstm_tagger": lambda: (Tagger(), (tokens(1, 7),), {}),
}

SLOW: dict[str, Callable[[], Call]] = {
    **{name: classifier(name) for name in models.list_models(models)},
    "unet": unet,
}


def is_functional(captured: CapturedGraph) -> bool:
    return not any(
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for node in captured.graph_module.graph.nodes
    )


@pytest.mark.sweep
@pytest.mark.parametrize("name", SLOW)
def test_the_captured_graph_of_every_classifier_equals_eager(name: str) -> None:
    model, _, _ = SLOW[name]()
    size = {"inception_v3": 299, "unet": 64}.get(name, 224)
    assert_captured_right(model, (torch.randn(1, 3, size, size),), {})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_captured_graph_equals_eager(family: str) -> None:
    assert_captured_right(*FAMILIES[family]())


def assert_captured_right(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    captured = capture(model, args, kwargs)
    assert captured.notes == []
    assert [limits.minimum for limits in captured.symbols.values()] == [1]
    assert is_functional(captured)
    with torch.no_grad():
        value = model.eval()(*args, **kwargs)
    spec, expected = OutputSpec.from_value(value)
    found = captured.run(captured.call_spec.flatten(args, kwargs))
    assert spec == captured.output_spec
    assert difference(spec.names, expected, found) is None
    assert type(captured.output_spec.rebuild(found)) is type(value)


def test_outputs_of_transformers_come_back_as_their_dataclass_with_the_cache() -> None:
    model, args, kwargs = gpt2()
    captured = capture(model, args, kwargs)
    assert captured.output_spec.names[:3] == (
        "logits", "past_key_values.layers.0.keys", "past_key_values.layers.0.values",
    )
    rebuilt = captured.output_spec.rebuild(captured.run(list(args)))
    assert dataclasses.is_dataclass(rebuilt)
    assert rebuilt.loss is None
    assert rebuilt["logits"] is rebuilt.logits
    assert rebuilt.past_key_values.get_seq_length() == 6


def test_the_shim_suppresses_overlapping_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.9, 0.3])
    kept = torchvision_shim.non_maximum_suppression(boxes, scores, 0.5)
    assert kept.tolist() == [1, 2]
    assert torch.ops.torchvision.nms(boxes, scores, 0.99).tolist() == [1, 0, 2]
