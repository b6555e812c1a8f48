"""Vision models of the zoo: torchvision, timm, segmentation-models-pytorch, transformers."""

from collections.abc import Callable

import torchvision_shim  # noqa: F401  # isort: skip  (must come before torchvision)
import torch
import torchvision
from torch import nn
from zoo_weights import Inputs

Factory = Callable[[], tuple[nn.Module, Inputs]]

SEGMENTATION = (
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50",
    "fcn_resnet101", "lraspp_mobilenet_v3_large",
)
# Clips as the pretrained models take them: frames, height and width.
VIDEO = {
    "mc3_18": (16, 112, 112), "r3d_18": (16, 112, 112), "r2plus1d_18": (16, 112, 112),
    "s3d": (16, 224, 224), "mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224),
    "swin3d_t": (16, 224, 224), "swin3d_s": (8, 224, 224), "swin3d_b": (8, 224, 224),
}
TIMM = {
    "resnet26d": 224, "mobilevit_xs": 256, "ghostnet_100": 224, "repvgg_a0": 224,
    "tf_efficientnetv2_b0": 192, "hrnet_w18_small": 224, "poolformer_s12": 224,
    "mixer_s32_224": 224, "deit_tiny_patch16_224": 224, "coat_lite_tiny": 224, "cspresnet50": 224,
    "dla34": 224, "nfnet_l0": 224, "levit_128s": 224, "edgenext_xx_small": 256,
    "xcit_nano_12_p16_224": 224, "convmixer_768_32": 224, "twins_pcpvt_small": 224,
    "pvt_v2_b0": 224, "efficientformer_l1": 224, "fastvit_t8": 256, "mobilenetv4_conv_small": 224,
    "res2net50_26w_4s": 224, "skresnet18": 224, "resnest14d": 224, "inception_v4": 299,
    "xception41": 299, "lambda_resnet26t": 256, "beit_base_patch16_224": 224,
    "eva02_tiny_patch14_224": 224, "volo_d1_224": 224, "crossvit_tiny_240": 240,
    "convit_tiny": 224, "coatnet_nano_rw_224": 224, "davit_tiny": 224, "focalnet_tiny_srf": 224,
    "gernet_s": 224, "tresnet_m": 224, "rexnet_100": 224, "selecsls42": 224,
}
UNET_ENCODERS = ("resnet18", "mobilenet_v2")
# Resolutions other than 224 that the architectures ask for.
_CLASSIFIER_SIZES = {"inception_v3": 299, "vit_h_14": 224}
_WITHOUT_AUXILIARY = {"googlenet", "inception_v3"}


def image(size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size)


def classifiers() -> list[str]:
    """The 80 classifiers of torchvision."""
    return torchvision.models.list_models(module=torchvision.models)


def classifier(name: str, size: int | None = None, **options: object) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        if name in _WITHOUT_AUXILIARY:
            options.update(aux_logits=False, init_weights=False)
        model = torchvision.models.get_model(name, weights=None, **options)
        return model, image(size or _CLASSIFIER_SIZES.get(name, 224))

    return make


def segmentation(name: str, size: int = 256, **options: object) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        model = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=21, **options
        )
        return model, image(size)

    return make


def video(name: str, shape: tuple[int, int, int]) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        return torchvision.models.get_model(name, weights=None), torch.randn(1, 3, *shape)

    return make


def timm_model(name: str, size: int) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        import timm

        return timm.create_model(name, pretrained=False), image(size)

    return make


def unet(encoder: str, size: int = 256) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        import segmentation_models_pytorch as smp

        return smp.Unet(encoder, encoder_weights=None), image(size)

    return make


def vit(layers: int = 12) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        from transformers import ViTConfig, ViTModel

        return ViTModel(ViTConfig(num_hidden_layers=layers)), image(224)

    return make


def swin(depths: tuple[int, ...] = (2, 2, 6, 2)) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        from transformers import SwinConfig, SwinModel

        return SwinModel(SwinConfig(depths=list(depths))), image(224)

    return make


def segformer() -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        return SegformerForSemanticSegmentation(SegformerConfig()), image(256)

    return make


def small_vit() -> tuple[nn.Module, Inputs]:
    model = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=4, hidden_dim=128, mlp_dim=256
    )
    return model, image(64)


def small_swin() -> tuple[nn.Module, Inputs]:
    """Two stages, so shifted windows and a patch merging are there."""
    model = torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=48, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4]
    )
    return model, image(64)


def full_size() -> dict[str, Factory]:
    """Every vision model by ``family/name``, as large as its authors use it."""
    found = {f"torchvision/{name}": classifier(name) for name in classifiers()}
    found |= {f"segmentation/{name}": segmentation(name) for name in SEGMENTATION}
    found |= {f"segmentation/unet_{name}": unet(name) for name in UNET_ENCODERS}
    found |= {f"video/{name}": video(name, shape) for name, shape in VIDEO.items()}
    found |= {f"timm/{name}": timm_model(name, size) for name, size in TIMM.items()}
    return found | {
        "transformers/vit": vit(), "transformers/swin": swin(),
        "transformers/segformer": segformer(),
    }
