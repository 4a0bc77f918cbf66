"""Checkpoints with the names of the published code bases, and what their networks compute, in plain torch."""

import torch
from torch import nn
from torch.nn import functional

from wsolfast._compat import import_torchvision

MEAN, STD = (
    torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
WIDTHS = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512]


class Attention(nn.Module):
    """Unscaled embedded-Gaussian block: BN(Wm A(Wv x)) + x."""

    def __init__(self, channels):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.mix_conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = (query.mT @ key).softmax(-1)
        return self.bn(self.mix_conv((value @ attention.mT).view_as(x))) + x


def vgg_layers(slope=None, attention=()):
    """VGG16 without its last pool as a list; ``attention``: after which pool (1 to 4) and conv5 (5) a block stands."""
    layers, channels, block = [], 3, 1
    for width in [*WIDTHS, "end"]:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(slope) if slope else nn.ReLU()]
            channels = width
            continue
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        if block in attention:
            layers.append(Attention(channels))
        block += 1
    return layers


class Spa(nn.Module):
    """Released SPA: blocks of VGG16, a head of three convolutions, a convolution that never runs."""

    def __init__(self, classes, hidden):
        super().__init__()
        layers = vgg_layers()
        self.conv1_2, self.conv3 = nn.Sequential(*layers[:10]), nn.Sequential(*layers[10:17])
        self.conv4, self.conv5 = nn.Sequential(*layers[17:24]), nn.Sequential(*layers[24:])
        self.conv5_add = nn.Sequential(nn.Conv2d(512, 8, 3), nn.ReLU())
        self.cls = head(512, hidden, classes)

    def forward(self, x):
        conv4 = self.conv4(self.conv3(self.conv1_2(x)))
        conv5 = self.conv5(conv4)
        return self.cls(conv5), conv4, conv5


class Baseline(nn.Module):
    """The CAM baseline that came with SPA."""

    def __init__(self, classes, hidden):
        super().__init__()
        self.features = nn.Sequential(*vgg_layers())
        self.cls = head(512, hidden, classes)

    def forward(self, x):
        return self.cls(self.features(x))


class SpaInception(nn.Module):
    """SPA's InceptionV3: padded stem and pools, Mixed_6a without stride, 28x28 at 224."""

    def __init__(self, classes, hidden):
        super().__init__()
        for name, child in inception().named_children():
            if name.startswith("Conv2d") or name in [
                f"Mixed_{n}" for n in ("5b", "5c", "5d", *(f"6{x}" for x in "abcde"))
            ]:
                self.add_module(name, child)
        first, *_, last = head(768, hidden, classes)
        second = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.cls_fc6, self.cls_fc7, self.cls_fc8 = nn.Sequential(first), nn.Sequential(second), last

    def forward(self, x):
        first = self.Conv2d_1a_3x3
        x = functional.conv2d(x, first.conv.weight, stride=2, padding=1)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(first.bn(x).relu()))
        x = functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2, 1, ceil_mode=True)
        conv4 = x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        block = self.Mixed_6a
        wide = functional.conv2d(x, block.branch3x3.conv.weight, padding=1)
        double = block.branch3x3dbl_2(block.branch3x3dbl_1(x))
        double = functional.conv2d(double, block.branch3x3dbl_3.conv.weight, padding=1)
        parts = block.branch3x3.bn(wide).relu(), block.branch3x3dbl_3.bn(double).relu()
        x = torch.cat([*parts, functional.max_pool2d(x, 3, 1, 1)], 1)
        conv5 = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.cls_fc8(self.cls_fc7(self.cls_fc6(conv5).relu()).relu()), conv4, conv5


class NlCcam(nn.Module):
    """Released NL-CCAM: four blocks, one linear classifier."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Sequential(*vgg_layers(0.2, (2, 3, 4, 5)))
        self.classifier = nn.Sequential(nn.Linear(512, classes))

    def forward(self, x):
        x = self.conv(x)
        return self.classifier(x.mean((2, 3))), torch.einsum("kc,nchw->nkhw", self.classifier[0].weight, x)


class Trunk(nn.Module):
    """The ``backbone`` of the CI-CAM code bases."""

    def __init__(self, attention, hidden=0):
        super().__init__()
        layers = vgg_layers(0.2, attention)
        for given, width in ((512, hidden), (hidden, hidden)) if hidden else ():
            layers += [nn.Conv2d(given, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.conv(x)


class InceptionTrunk(nn.Module):
    """Stock InceptionV3 up to Mixed_6e; the rest has weights and does not run."""

    def __init__(self, attention):
        super().__init__()
        for name, child in inception().named_children():
            self.add_module(name, child)
        self.attention = attention
        if attention:
            for number, channels in ((4, 192), (5, 288), (6, 768)):
                self.add_module(f"nonlocal_{number}", Attention(channels))

    def forward(self, x):
        attend = {n: getattr(self, f"nonlocal_{n}") if self.attention else nn.Identity() for n in (4, 5, 6)}
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = attend[4](self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))))
        x = attend[5](self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        return attend[6](self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))))


class CiCam(nn.Module):
    """Released CI-CAM: two branches around a dense 1x1 convolution of one-hot contexts."""

    def __init__(self, backbone, channels, classes, size, *, shared=True, regressor=True, branches=2):
        super().__init__()
        self.backbone = backbone
        self.up_classifier = nn.Sequential(nn.Linear(channels, classes))
        if branches == 2:
            self.down_classifier = self.up_classifier if shared else nn.Sequential(nn.Linear(channels, classes))
            self.mask2attention = nn.Conv2d(classes, channels, 1)
            self.mask_bn = nn.BatchNorm2d(classes)
            self.mask = torch.randn(classes, size, size)
        if regressor:
            self.regressor = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4))

    def forward(self, x):
        x = self.backbone(x)
        logits = self.up_classifier(x.mean((2, 3)))
        if not hasattr(self, "mask"):
            return logits, torch.einsum("kc,nchw->nkhw", self.up_classifier[0].weight, x)
        predicted = logits.argmax(1)
        context = torch.zeros(len(x), *self.mask.shape, dtype=x.dtype)
        context[torch.arange(len(x)), predicted] = self.mask[predicted].to(x.dtype)
        x = x + self.mask2attention(context) * x
        classifier = self.down_classifier
        return classifier(x.mean((2, 3))), torch.einsum("kc,nchw->nkhw", classifier[0].weight, x)


class Spol(nn.Module):
    """MFF-Net on ResNet50: attention across three stages, then their product; ``classes`` 0 for MFF-Net₂."""

    def __init__(self, classes):
        super().__init__()
        self.bkbone = import_torchvision().models.resnet50()
        del self.bkbone.fc
        for stage, channels in ((5, 2048), (4, 1024), (3, 512)):
            self.add_module(f"fc{stage}1", nn.Conv2d(channels, 128, 1))
            self.add_module(f"bn{stage}1", nn.BatchNorm2d(128))
            self.add_module(f"fc{stage}2", nn.Conv2d(128, channels, 1))
            self.add_module(f"linear{stage}", nn.Conv2d(channels, 128, 1))
            self.add_module(f"bn{stage}", nn.BatchNorm2d(128))
        self.classes, self.linear = classes, nn.Conv2d(128, classes or 1, 1)

    def part(self, name, x):
        return getattr(self, name)(x)

    def forward(self, x):
        net = self.bkbone
        x = net.layer1(net.maxpool(net.bn1(net.conv1(x)).relu()))
        stages = {3: net.layer2(x)}
        stages[4] = net.layer3(stages[3])
        stages[5] = net.layer4(stages[4])
        latent, product = 1, 1
        for k, features in stages.items():
            latent = latent * self.part(f"bn{k}1", self.part(f"fc{k}1", features.mean((2, 3), keepdim=True))).relu()
        for k, features in stages.items():
            weighted = self.part(f"fc{k}2", latent).sigmoid() * features
            reduced = self.part(f"bn{k}", self.part(f"linear{k}", weighted)).relu()
            size = stages[3].shape[2:]
            product = product * functional.interpolate(reduced, size=size, mode="bilinear", align_corners=True)
        out = self.linear(product)
        return out.relu() if self.classes else out


def head(channels, hidden, classes):
    conv = nn.Conv2d
    layers = conv(channels, hidden, 3, padding=1), nn.ReLU(), conv(hidden, hidden, 3, padding=1), nn.ReLU()
    return nn.Sequential(*layers, conv(hidden, classes, 1))


def inception():
    return import_torchvision().models.inception_v3(init_weights=False)


def ready(net):
    """Evaluation mode, double precision, every batch norm with statistics and weights of its own."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.weight.data, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return net.eval()


def images(side, count=2):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def normalized(image):
    return (image.double() / 255 - MEAN) / STD


def combined(maps, scores, weights):
    """H = sum over ranks k of weights[k] M_{t_k}, scaled to [0, 1] per image."""
    order = scores.argsort(1, descending=True)
    ranked = maps[torch.arange(len(maps))[:, None], order]
    total = (ranked * weights[:, None, None]).sum(1)
    total = total - total.amin((1, 2), keepdim=True)
    return total / total.amax((1, 2), keepdim=True)


class TsCam(nn.Module):
    """Released TS-CAM: a DeiT whose blocks also return their attention, and a 3x3 convolution on the patches."""

    def __init__(self, classes, width, heads, depth=12, patches=196):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 16, stride=16)
        self.blocks = nn.ModuleList(DeitBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, x):
        x = self.patch_embed.proj(x)
        grid = x.shape[2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).mT], 1) + self.pos_embed
        every = []
        for block in self.blocks:
            x, attention = block(x)
            every.append(attention.mean(1))
        class_maps = self.head(self.norm(x)[:, 1:].mT.unflatten(2, grid))
        attention = torch.stack(every).sum(0)[:, 0, 1:].unflatten(1, grid)
        return class_maps.mean((2, 3)), attention[:, None] * class_maps


class DeitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        query, key, value = self.attn.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.attn.proj((attention @ value).transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x)))), attention
