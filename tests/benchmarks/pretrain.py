"""Pretrained weights for a network that none can be had for: it imitates another one's ImageNet classes on photos.

    python tests/benchmarks/pretrain.py NETWORK OUT.pth --teacher mobilenet_v2-b0353104.pth --photos FOLDER ...

The teacher is torchvision's MobileNetV2 with its ImageNet weights, whose logits of a thousand classes are rich labels
for any photo (Hinton et al. 2015, arXiv 1503.02531). From nothing, a network hardly learns from some hundred images;
from these weights it does: they are what ``network.weights=OUT.pth`` begins with in the recorded runs of networks that
no package carries weights of. Photos are read from folders, by the way in ``--photos``: name only what nothing is
tested on.

``--start`` begins with the weights of a network of the same convolutions, whatever its parameters are called: those of
EfficientNet-Lite0, which a package carries, fit ``efficientnet_b0``, which is it with squeeze-excite.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import v2

from lightning_nas.supernet import stock_network

MEAN, STD = (torch.tensor(row).view(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SIZE, BATCH, TEMPERATURE, LONGEST = 96, 32, 2.0, 224


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def photos_in(folders):
    """Return the photos of some folders, their longest side at most `LONGEST` pixels, as tensors (3, H, W) of bytes."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        image.thumbnail((LONGEST, LONGEST))
        found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return found


def started(network, weights):
    """Give a network the weights of one of the same layers, in their order, but for squeeze-excite, which opens."""
    gates = {name for name in network.state_dict() if ".se." in name}
    ours = {name: value for name, value in network.state_dict().items() if name not in gates}
    if [value.shape for value in ours.values()] != [value.shape for value in weights.values()]:
        raise SystemExit("the weights of --start are not those of a network of the same layers")
    network.load_state_dict(dict(zip(ours, weights.values(), strict=True)), strict=False)
    for name, value in network.named_parameters():
        if name.endswith("se.conv_expand.bias"):
            torch.nn.init.constant_(value, 3.0)
    return network


def pretrained(name, teacher, photos, steps, lr, start=None):
    """Train a stock network to give the teacher's logits, and return it."""
    torch.manual_seed(0)
    network = stock_network(name, 1000).to(memory_format=torch.channels_last).train()
    if start is not None:
        network = started(network, torch.load(start, weights_only=True))
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.15, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3),
        ]
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    begun, mean = time.time(), math.nan
    for step in range(steps):
        picked = torch.randint(len(photos), (BATCH,)).tolist()
        images = torch.stack([augment(photos[index]) for index in picked]).float() / 255
        images = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            goal = functional.log_softmax(teacher(images) / TEMPERATURE, 1)
        found = functional.log_softmax(network(images) / TEMPERATURE, 1)
        loss = TEMPERATURE**2 * functional.kl_div(found, goal, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            say(f"step {step} of {steps}, divergence {mean:.3f}, {time.time() - begun:.0f} s")
    return network.eval()


def main():
    """Pretrain one network, and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="weights of torchvision's mobilenet_v2")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights of a network of the same convolutions")
    given = parser.parse_args()
    teacher = stock_network("mobilenet_v2", 1000, given.teacher).to(memory_format=torch.channels_last).eval()
    photos = photos_in(given.photos)
    say(f"{len(photos)} photos")
    network = pretrained(given.network, teacher, photos, given.steps, given.lr, given.start)
    torch.save(network.state_dict(), given.out)


if __name__ == "__main__":
    main()
