"""Detection: heads that learn, losses and boxes that agree, and a module that a search takes."""

import lightning.pytorch as pl
import pytest
import torch
from searches import search_of
from torch.utils.data import DataLoader

from lightning_nas import Estimator, derive, space_of, supernet_from
from lightning_nas.tasks.boxes import pick
from lightning_nas.tasks.detection import Detection
from lightning_nas.tasks.detector import HEADS, detector
from lightning_nas.tasks.fcos import FCOSHead
from lightning_nas.tasks.ssdlite import SSDLiteHead

SIZE = (64, 96)
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


def squares(count):
    """Return images with one bright square each, and its box."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(count, 3, *SIZE, generator=generator) * 0.1, []
    for image in images:
        side = int(torch.randint(16, 40, (), generator=generator))
        top, left = (int(torch.randint(0, room - side, (), generator=generator)) for room in SIZE)
        image[:, top : top + side, left : left + side] += 1
        box = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.zeros(1, dtype=torch.long)})
    targets[0] = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return images, targets


def together(batch):
    return torch.stack([image for image, _ in batch]), [target for _, target in batch]


def loader(count=32, batch_size=8):
    return DataLoader(list(zip(*squares(count), strict=True)), batch_size, collate_fn=together)


def small(head, **options):
    torch.manual_seed(0)
    return detector(1, "mobilenet_v2", head, width_mult=0.25, **options)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_to_find_squares(head):
    module, images_targets = Detection(small(head), 1), squares(32)
    trainer = pl.Trainer(max_epochs=25, **QUIET)
    module.optimizing = type(module.optimizing)("adamw", 5e-3, 0.0, 0.1)
    trainer.fit(module, loader())
    found = trainer.validate(module, loader(), verbose=False)[0]
    assert found["val_ap50"] > 0.5
    boxes = module.eval().detections(images_targets[0][:2])
    assert set(boxes[0]) == {"boxes", "scores", "labels"}


def test_perfect_outputs_of_fcos_have_no_box_loss_and_give_the_box_back():
    head = FCOSHead([8, 8, 8], (8, 16, 32), num_classes=2, width=8)
    box = torch.tensor([[10.0, 12.0, 50.0, 44.0]])
    targets = [{"boxes": box, "labels": torch.tensor([1])}]
    outputs = []
    for stride in head.strides:
        rows, columns = SIZE[0] // stride, SIZE[1] // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        sides = torch.stack([x * stride - 10, y * stride - 12, 50 - x * stride, 44 - y * stride])
        inside = (sides > 0).all(0)
        scores = torch.full((1, 2, rows, columns), -20.0)
        scores[0, 1][inside] = 20.0
        logs = (sides.clamp(min=1e-3) / stride).log()[None]
        outputs += [scores, torch.cat([logs, torch.full((1, 1, rows, columns), 20.0)], dim=1)]
    losses = head.losses(outputs, targets, SIZE)
    assert float(losses["giou"]) < 1e-4
    found = head.detections(outputs, SIZE)[0]
    torch.testing.assert_close(found["boxes"][:1], box, atol=1e-2, rtol=0)
    assert found["labels"][0] == 1


@pytest.mark.parametrize("head", [FCOSHead, SSDLiteHead])
def test_images_without_boxes_have_a_finite_loss(head):
    made = head([8, 8, 8], (8, 16, 32), num_classes=2)
    features = [torch.randn(2, 8, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    losses = made.losses(made(features), [empty, empty], SIZE)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", [FCOSHead, SSDLiteHead])
def test_what_a_teacher_finds_is_imitated(kind):
    torch.manual_seed(0)
    head = kind([8, 8, 8], (8, 16, 32), num_classes=2)
    shapes = [map_.shape for map_ in head([torch.randn(1, 8, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)])]
    wanted = [torch.randn(shape) for shape in shapes]
    found = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    optimizer = torch.optim.Adam(found, lr=0.05)
    losses = []
    for _ in range(150):
        losses.append(head.imitation(found, wanted))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] - head.imitation(wanted, wanted) < 0.1 * (losses[0] - head.imitation(wanted, wanted))


@pytest.mark.parametrize(("kind", "background"), [(FCOSHead, 0), (SSDLiteHead, 20)])
def test_boxes_are_not_imitated_where_a_teacher_finds_nothing(kind, background):
    torch.manual_seed(0)
    head = kind([8, 8, 8], (8, 16, 32), num_classes=2)
    found = [map_.detach() for map_ in head([torch.randn(1, 8, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)])]
    found = [map_.requires_grad_() for map_ in found]
    wanted = [torch.randn_like(map_) for map_ in found]
    for scores in wanted[0::2]:
        scores.fill_(-20)
        if background:
            scores[:, 0::3] = background
    head.imitation(found, wanted).backward()
    assert max(float(boxes.grad.abs().max()) for boxes in found[1::2]) < 1e-6
    assert min(float(scores.grad.abs().max()) for scores in found[0::2]) > 0


def test_every_object_has_an_anchor():
    head = SSDLiteHead([8, 8], (16, 32), num_classes=1, extra=0)
    features = [torch.randn(1, 8, SIZE[0] // s, SIZE[1] // s) for s in (16, 32)]
    tiny = [{"boxes": torch.tensor([[3.0, 3.0, 6.0, 7.0]]), "labels": torch.tensor([0])}]
    assert float(head.losses(head(features), tiny, SIZE)["boxes"].detach()) > 0


def test_images_of_odd_sizes_are_refused_with_what_would_be_valid():
    with pytest.raises(ValueError, match="Images must have multiples of 32 pixels a side; got about 104x144"):
        small("fcos")(torch.zeros(1, 3, 100, 140))


def test_picking_keeps_the_surest_of_each_class():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 40.0, 30.0]])
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.04, 0.3]])
    found = pick(scores, boxes, (32, 32), threshold=0.1, iou=0.5)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found["labels"].tolist() == [0, 1, 1]
    assert found["boxes"][2].tolist() == [20, 20, 32, 30]


@pytest.mark.parametrize(("backbone", "head"), [("mobilenet_v2", "fcos"), ("mobilenetv2_035", "ssdlite")])
def test_heads_are_sliced_with_the_backbone_and_priced(backbone, head):
    network, images = detector(3, backbone, head), torch.rand(2, 3, *SIZE)
    space = space_of(network, images[:1])
    network = supernet_from(network, images[:1], space).eval()
    estimator = Estimator.load("ethos_u85_1024")
    nodes = tuple(0 for _ in space.node_sizes)
    network.supernet.activate(nodes)
    subnet = derive(network, nodes).eval()
    with torch.no_grad():
        pairs = zip(network(images), subnet(images), strict=True)
        # Up to rounding: untrained deep maps are as small as 1e-16.
        assert all(float((a - b).abs().max()) <= 1e-5 * float(a.abs().max()) for a, b in pairs)
    assert estimator.latency_ms(space.decode(nodes)) == pytest.approx(estimator.latency_ms(subnet, images))
    narrow, full = (estimator.latency_ms(space.decode(n)) for n in (nodes, space.reference_encoding))
    assert narrow < 0.7 * full


@pytest.mark.usefixtures("few_anchors")
def test_a_search_finds_a_detector_within_the_budget(tmp_path):
    estimator = Estimator.load("ethos_u85_1024")
    module = Detection(supernet_from(small("fcos"), torch.zeros(1, 3, *SIZE)), 1)
    search = search_of(estimator, latency="0.8x", candidates=2, evaluations=0, warmup=0.0, every=1)
    pl.Trainer(max_epochs=1, callbacks=[search], **QUIET).fit(module, loader(16), loader(8))
    subnet = search.derive(module, num_batches=2)
    assert type(subnet) is Detection
    reference = search.search.supernet.space.decode(search.search.supernet.space.reference_encoding)
    assert estimator.latency_ms(subnet.network, torch.zeros(1, 3, *SIZE)) <= 0.8 * estimator.latency_ms(reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "yolo"}, "`head` must be one of fcos, ssdlite; got 'yolo'"),
        ({"backbone": "vit_tiny_patch16_224"}, "backbone"),
    ],
)
def test_what_cannot_be_built_is_said(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        detector(1, **options)
