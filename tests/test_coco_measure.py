"""Detection is judged as COCO's own evaluation judges it: crowd regions, areas, sizes of objects."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionBatches, DetectionRecord
from lightning_nas.tasks.detection import Detection
from lightning_nas.tasks.fcos import FCOSHead
from lightning_nas.tasks.ssdlite import SSDLiteHead

HEIGHT, WIDTH = 240, 320
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
MEASURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


def truth(sides: list[float], category: int = 1, image: int = 1, **more: object) -> dict:
    return {"image_id": image, "category_id": category, "bbox": sides, "area": sides[2] * sides[3], **more}


def found(sides: list[float], score: float, category: int = 1, image: int = 1) -> dict:
    return {"image_id": image, "category_id": category, "bbox": sides, "score": score}


MAN, CROWD = [20, 20, 40, 80], [160, 40, 120, 160]
IN_CROWD = [found([170 + 20 * n, 60, 20, 50], 0.9 - 0.1 * n) for n in range(3)]
CASES = {
    "found in a crowd region, and surer than the object": (
        [truth(MAN), truth(CROWD, iscrowd=1)],
        [*IN_CROWD, found(MAN, 0.2)],
    ),
    "a class of nothing but a crowd region": (
        [truth(MAN), truth(CROWD, 2, iscrowd=1)],
        [found(MAN, 0.2), found([170, 60, 20, 50], 0.9, 2), found([10, 10, 20, 50], 0.8, 2)],
    ),
    "an object within a crowd region": ([truth([170, 60, 20, 50]), truth(CROWD, iscrowd=1)], IN_CROWD),
    "found in part in a crowd region": (
        [truth(MAN), truth(CROWD, iscrowd=1)],
        [found([140, 60, 50, 50], 0.9), found([150, 120, 40, 40], 0.8), found([21, 22, 40, 80], 0.7)],
    ),
    "a crowd region of another class": (
        [truth(MAN), truth(MAN, 2), truth(CROWD, 2, iscrowd=1)],
        [*IN_CROWD, found(MAN, 0.5), found(MAN, 0.5, 2)],
    ),
    "ignore without iscrowd": ([truth(MAN), truth([200, 40, 40, 40], ignore=1)], [found(MAN, 0.9)]),
    "iscrowd with ignore of 0": ([truth(MAN), truth(CROWD, iscrowd=1, ignore=0)], [*IN_CROWD, found(MAN, 0.2)]),
    "an area that is less than the box's": (
        [truth([10, 10, 60, 60], area=900), truth([100, 100, 120, 120], area=5000)],
        [found([12, 10, 60, 60], 0.9), found([100, 104, 120, 120], 0.8), found([250, 10, 30, 30], 0.7)],
    ),
    "objects of every size, and mistakes of every size": (
        [truth([0, 0, 20, 20]), truth([40, 0, 60, 60]), truth([110, 0, 200, 200])],
        [
            *(found(sides, 0.5) for sides in ([0, 1, 20, 20], [40, 4, 60, 60], [110, 9, 200, 200])),
            *(found(sides, 0.6) for sides in ([0, 200, 20, 20], [40, 130, 70, 70])),
        ],
    ),
    "several images and classes, one of them empty": (
        [
            *(truth([10 * n, 5 * n, 30 + 9 * n, 40 + 7 * n], 1 + n % 2, 1 + n % 2) for n in range(8)),
            truth([150, 20, 150, 200], 1, 2, iscrowd=1),
        ],
        [
            *(found([11 * n, 5 * n, 31 + 8 * n, 38 + 7 * n], 0.3 + 0.05 * n, 1 + n % 2, 1 + n % 2) for n in range(8)),
            *(found([60 + 20 * n, 50, 40, 60], 0.65 - 0.1 * n, 1 + n % 2, 1 + n) for n in range(3)),
        ],
    ),
}


class GivenHead:
    """A head that finds what it is given, image by image."""

    def __init__(self, boxes: list[dict]) -> None:
        self.boxes = boxes

    def losses(self, outputs, targets, size):
        return {"none": outputs[0].sum()}

    def detections(self, outputs, size):
        return [self.boxes.pop(0) for _ in outputs[0]]


class Given(nn.Module):
    """A network with such a head."""

    def __init__(self, boxes: list[dict]) -> None:
        super().__init__()
        self.head = GivenHead(boxes)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return [images * self.weight]


def on_canvas(boxes: list[dict], image: int, scale: float) -> dict[str, torch.Tensor]:
    own = [box for box in boxes if box["image_id"] == image]
    corners = [[left, top, left + width, top + height] for left, top, width, height in (box["bbox"] for box in own)]
    return {
        "boxes": torch.tensor(corners, dtype=torch.float32).view(-1, 4) * scale,
        "scores": torch.tensor([box["score"] for box in own], dtype=torch.float32),
        "labels": torch.tensor([box["category_id"] - 1 for box in own], dtype=torch.int64),
    }


def write(root: Path, annotations: list[dict]) -> dict:
    """Write a data set of three images and two classes, and return what its files hold."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)],
        "annotations": [{"id": number, "iscrowd": 0, **one} for number, one in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "man"}, {"id": 2, "name": "dog"}],
    }
    (root / "annotations").mkdir(parents=True)
    training = {**content, "annotations": [{"id": 1, "iscrowd": 0, **truth(MAN, n)} for n in (1, 2)]}
    for split, own in (("train", training), ("val", {**training, "images": content["images"]}), ("test", content)):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(own))
        for image in own["images"]:
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / split / image["file_name"])
    return content


@pytest.mark.parametrize("name", CASES)
def test_the_measure_is_that_of_cocos_own_evaluation(tmp_path: Path, name: str) -> None:
    annotations, boxes = CASES[name]
    content = write(tmp_path, annotations)
    judge = COCOeval_faster(COCO(content), COCO(content).loadRes(boxes), "bbox", print_function=lambda *_: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    # Half as large as annotated: sizes are those of the annotated images nevertheless.
    data = CocoDataModule(tmp_path, image_size=(HEIGHT // 2, WIDTH // 2))
    module = Detection(Given([on_canvas(boxes, image, 0.5) for image in (1, 2, 3)]), 2)
    logged = pl.Trainer(**QUIET).test(module, data, verbose=False)[0]
    expected = dict(zip(MEASURES, judge.stats, strict=False))
    assert expected["map_50"] != 0
    assert logged["test_ap50"] == pytest.approx(max(0, expected["map_50"]), abs=1e-6)
    assert logged["test_map"] == pytest.approx(max(0, expected["map"]), abs=1e-6)
    for size in ("small", "medium", "large"):
        assert logged.get(f"test_map_{size}", -1) == pytest.approx(expected[f"map_{size}"], abs=1e-6)


def test_what_is_found_in_a_crowd_region_is_no_mistake(tmp_path: Path) -> None:
    annotations, boxes = next(iter(CASES.values()))
    write(tmp_path, annotations)
    data = CocoDataModule(tmp_path, image_size=(HEIGHT, WIDTH))
    module = Detection(Given([on_canvas(boxes, image, 1.0) for image in (1, 2, 3)]), 2)
    assert pl.Trainer(**QUIET).test(module, data, verbose=False)[0]["test_ap50"] == pytest.approx(1.0)


def test_ignore_without_iscrowd_is_told_to_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [truth(MAN), truth(MAN, ignore=1), truth(CROWD, iscrowd=1, ignore=1)])
    CocoDataModule(tmp_path)
    assert "1 annotations have `ignore` without `iscrowd`; they are objects like any other" in caplog.text


def test_batches_of_ones_own_need_no_more_than_boxes_and_labels() -> None:
    box = torch.tensor([[10.0, 10.0, 40.0, 50.0]])
    truths = {"boxes": box, "labels": torch.tensor([0])}
    module = Detection(Given([{**truths, "scores": torch.tensor([0.9])}]), 1)
    loader = DataLoader([(torch.zeros(3, 64, 64), truths)], collate_fn=lambda pairs: (pairs[0][0][None], [pairs[0][1]]))
    assert pl.Trainer(**QUIET).test(module, loader, verbose=False)[0]["test_ap50"] == pytest.approx(1.0)


def outputs_of(head: nn.Module, confident: bool) -> list[torch.Tensor]:
    """Return maps of the head's shapes whose class logits say that class 0 is everywhere, or nowhere."""
    torch.manual_seed(0)
    maps = head.eval()([torch.randn(1, 8, 64 // stride, 64 // stride) for stride in (8, 16, 32)])
    for scores in maps[0::2]:
        if isinstance(head, SSDLiteHead):
            own = scores.data.view(1, -1, 3, *scores.shape[-2:])
            own[:] = 0.0
            own[:, :, 1 if confident else 0] = 9.0
        else:
            scores.data[:] = -9.0
            scores.data[:, 0] = 9.0 if confident else -9.0
    return maps


@pytest.mark.parametrize("kind", [FCOSHead, SSDLiteHead])
def test_finding_something_in_a_crowd_region_costs_nothing_in_training(kind: type) -> None:
    head = kind([8, 8, 8], (8, 16, 32), num_classes=2)
    crowd = {
        "boxes": torch.tensor([[-99.0, -99.0, 199.0, 199.0]]),
        "labels": torch.tensor([0]),
        "iscrowd": torch.tensor([1]),
    }
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    maps = outputs_of(head, confident=True)
    loss = [sum(head.losses(maps, [target], (64, 64)).values()).item() for target in (crowd, empty)]
    assert loss[0] < 1e-3 < 1 < loss[1]


@pytest.mark.parametrize("kind", [FCOSHead, SSDLiteHead])
def test_an_object_in_a_crowd_region_is_learned_nevertheless(kind: type) -> None:
    head = kind([8, 8, 8], (8, 16, 32), num_classes=2)
    boxes = torch.tensor([[16.0, 16.0, 48.0, 48.0], [0.0, 0.0, 64.0, 64.0]])
    target = {"boxes": boxes, "labels": torch.tensor([0, 0]), "iscrowd": torch.tensor([0, 1])}
    missed, hit = (head.losses(outputs_of(head, sure), [target], (64, 64)) for sure in (False, True))
    name = "focal" if kind is FCOSHead else "classes"
    assert missed[name].item() > 1 > hit[name].item()
    # A crowd region itself has no box to learn.
    alone = {name: part[:1] for name, part in target.items()}
    maps = outputs_of(head, confident=True)
    for name in ("giou", "centre") if kind is FCOSHead else ("boxes",):
        assert torch.equal(head.losses(maps, [target], (64, 64))[name], head.losses(maps, [alone], (64, 64))[name])


def test_a_crop_keeps_what_it_shows_of_a_crowd_region() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:] = 255
    boxes = torch.tensor([[20.0, 10.0, 60.0, 30.0], [0.0, 0.0, 6.0, 6.0]])
    record = DetectionRecord(image, (40, 60), boxes, torch.tensor([1, 0]), torch.tensor([True, False]))
    data = DetectionBatches([record], (40, 60), DetectionAugmentation(0.2, flip=False, zoom_out=1, color_jitter=0))
    cut = 0
    for number in range(40):
        data.seed = number
        pixels, target = data[0]
        shown = (pixels[0] > 1).any(dim=0).nonzero()
        regions = target["boxes"][target["iscrowd"].bool()]
        assert target["labels"].tolist() == [1 - int(one == 0) for one in target["iscrowd"]]
        assert len(regions) == 1 or len(shown) < 8
        if len(regions) == 1:
            np.testing.assert_allclose(regions[0, [0, 2]], [int(shown.min()), int(shown.max()) + 1], atol=2)
            cut += float(regions[0, 2] - regions[0, 0]) < 39
    assert cut > 5
