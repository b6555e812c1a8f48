"""Detectors of torchvision, whole: the same boxes, as one engine and through graph breaks."""

import pytest
import torch

import torchvision_shim  # noqa: F401  # isort: skip  (before torchvision)
from torch import nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn, ssd300_vgg16
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

import torch2rt
from torch2rt.plugins.detection import unpad, whole


class Levels(nn.Module):
    """A backbone of two levels."""

    def __init__(self, channels=(8, 8)):
        super().__init__()
        self.out_channels = channels[0]
        self.stem = nn.Conv2d(3, channels[0], 3, 4, 1)
        self.next = nn.Conv2d(channels[0], channels[1], 3, 2, 1)

    def forward(self, x):
        first = self.stem(x).relu()
        return {"0": first, "1": self.next(first).relu()}


def spread(model):
    """Weights that give scores of all sizes, none of them 1, and boxes beside their anchors."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    model.eval()
    head = model.head
    with torch.no_grad():
        images, _ = model.transform([torch.rand(3, 60, 90)])
        features = list(model.backbone(images.tensors).values())
        if isinstance(model, SSD):
            scores = zip(head.classification_head.module_list, features, strict=True)
            offsets = zip(head.regression_head.module_list, features, strict=True)
            for last, feature in (*scores, *offsets):
                last.weight *= 1 / last(feature).std()
        else:
            found = head(features)
            head.classification_head.cls_logits.weight *= 1 / found["cls_logits"].std()
            head.regression_head.bbox_reg.weight *= 1 / found["bbox_regression"].std()
    return model


def small_ssd():
    boxes = DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.5, 0.9], steps=[4, 8])
    backbone = Levels()
    backbone.out_channels = [8, 8]
    return spread(SSD(backbone, boxes, (72, 56), 5, topk_candidates=60, detections_per_img=20))


def small_retinanet():
    anchors = AnchorGenerator(((8, 12), (24, 32)), ((0.5, 1.0), (0.5, 1.0)))
    return spread(RetinaNet(
        Levels(), 6, min_size=48, max_size=80, anchor_generator=anchors, topk_candidates=150,
        detections_per_img=20,
    ))


MODELS = {"SSD": small_ssd, "RetinaNet": small_retinanet}


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert 5 < len(theirs["boxes"]), "a test of nothing"
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_one_engine(name):
    model, images = MODELS[name](), torch.rand(2, 3, 60, 90)
    with torch.no_grad():
        wanted = model(list(images))
        assert_same(unpad(whole(model)(images)), wanted)
    rt = torch2rt.convert(whole(model), images, tune_budget_s=0, progress=False)
    assert_same(unpad(rt(images)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SSD300", "RetinaNet"])
def test_whole_detectors(name):
    if name == "SSD300":
        model = spread(ssd300_vgg16(weights=None, weights_backbone=None))
    else:
        model = spread(retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=11, min_size=224, max_size=320,
            detections_per_img=50,
        ))
    images = torch.rand(1, 3, 240, 320)
    with torch.no_grad():
        wanted = model(list(images))
    assert_same(unpad(torch2rt.convert(whole(model), images, progress=False)(images)), wanted)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="Linear is not one of SSD, RetinaNet"):
        whole(nn.Linear(1, 1))
