"""What the ids in masks mean: classes with gaps, 255 as a class, ids that are left out, and what cannot be meant."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lightning_nas.data.masks import MaskFolderDataModule, mask_data
from lightning_nas.data.voc_segmentation import VOCSegmentationDataModule

CONF = Path(__file__).parents[1] / "conf" / "data" / "masks.yaml"


def save(root: Path, kind: str, name: str, values: np.ndarray) -> None:
    path = root / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make(root: Path, *ids: int, val: tuple[int, ...] = ()) -> Path:
    """Write images of 16x16 whose masks have a stripe of each id; some pixels of these go to the validation masks."""
    for split, own in (("train", ids), ("val", val or ids)):
        save(root, f"images/{split}", "0.png", np.zeros((16, 16, 3), dtype=np.uint8))
        save(root, f"masks/{split}", "0.png", np.resize(np.array(own, dtype=np.uint8), (16, 16)))
    return root


def write_labels(root: Path, names: dict[int, str], **more: object) -> None:
    classes = [{"id": number, "name": name} for number, name in names.items()]
    (root / "labels.json").write_text(json.dumps({"classes": classes, **more}))


def read(root: Path, **options: object) -> tuple[tuple[str, ...], list[int]]:
    """Return the names of the classes, and the labels of the first pixels of a validation mask."""
    data = MaskFolderDataModule(root, image_size=16, **options)
    data.setup("validate")
    return data.class_names, data.val_dataloader().dataset[0][1].flatten()[:4].tolist()


def test_binary_masks_of_0_and_255_are_refused_until_it_is_said_what_255_is(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 255)
    with pytest.raises(ValueError, match=r"have 0, 255, of which 255 count for nothing. HINT: .*`classes=\{0: NAME"):
        read(root)
    write_labels(root, {0: "background", 1: "pet"}, ignore_index=255)
    message = r"no mask has a pixel of pet, but 50 % of the training masks' pixels have the id 255.*HINT"
    with pytest.raises(ValueError, match=message):
        read(root)
    assert read(root, classes={0: "background", 255: "pet"}) == (("background", "pet"), [0, 1, 0, 1])


def test_labels_json_can_say_that_255_is_a_class(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 255)
    write_labels(root, {0: "background", 255: "pet"})
    assert read(root) == (("background", "pet"), [0, 1, 0, 1])
    write_labels(root, {0: "background", 255: "pet"}, ignore_index=None)
    assert read(root) == (("background", "pet"), [0, 1, 0, 1])


def test_all_foreground_ignored_is_an_error_in_any_split(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 1, 255, val=(0, 255))
    message = r"labelled pixels of the masks of '.*' \(val\) are 'sky'; 50 % of all pixels count for nothing.*id 255"
    with pytest.raises(ValueError, match=message):
        read(root, classes={0: "sky", 1: "road"})
    with pytest.raises(ValueError, match=r"\(train\) are 'sky'; 50 % of all pixels count for nothing, those of id 1\."):
        read(make(tmp_path, 0, 1, val=(0, 7)), classes={0: "sky", 7: "road"}, ignored=1)


def test_a_class_of_which_no_mask_has_a_pixel_is_an_error_where_pixels_are_ignored(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 1, 255)
    write_labels(root, {0: "background", 1: "cat", 2: "dog"})
    with pytest.raises(ValueError, match=r"no mask has a pixel of dog, .* HINT: if that is dog, say so"):
        read(root)
    assert read(root, classes={0: "background", 1: "cat"})[0] == ("background", "cat")
    # Where nothing is ignored, a class may be missing.
    write_labels(make(tmp_path, 0, 1), {0: "background", 1: "cat", 2: "dog"})
    assert read(root)[0] == ("background", "cat", "dog")


def test_ids_with_gaps_are_classes_without_gaps_once_they_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 128, 7, 255)
    with pytest.raises(ValueError, match=r"no id missing between them; those of '.*' have 0, 7, 128, 255, of which"):
        read(root)
    expected = (("sky", "road", "tree"), [0, 2, 1, 255])
    assert read(root, classes={128: "tree", 0: "sky", 7: "road"}) == expected
    write_labels(root, {128: "tree", 0: "sky", 7: "road"})
    assert read(root) == expected


def test_ids_that_are_ignored_are_no_classes(tmp_path: Path) -> None:
    root = make(tmp_path, 0, 1, 2, 1)
    expected = [255, 0, 1, 0]
    assert read(root, ignored=0) == (("1", "2"), expected)
    write_labels(root, {0: "void", 1: "cat", 2: "dog"})
    assert read(root, ignored=[0, 255]) == (("cat", "dog"), expected)
    write_labels(root, {1: "cat", 2: "dog"}, ignore_index=[0, 255])
    assert read(root) == (("cat", "dog"), expected)


def test_ids_of_one_name_are_one_class(tmp_path: Path) -> None:
    assert read(make(tmp_path, 0, 1, 2), classes={0: "sky", 1: "car", 2: "car"}) == (("sky", "car"), [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": {0: "a", 1: "b"}, "ignored": 1}, "An id must be a class or ignored, not both; 1 is 'b' and"),
        ({"classes": {0: "a", 300: "b"}}, "must be 0 to 255; got 300"),
        ({"classes": {0: "a", 0.5: "b"}}, "`classes` must give names by ids"),
        ({"classes": {0: "a", True: "b"}}, "`classes` must give names by ids"),
        ({"classes": {0: "a", float("inf"): "b"}}, "`classes` must give names by ids"),
        ({"classes": {0: "a", 1: "b"}, "ignored": [0.5]}, "are whole numbers and must be 0 to 255; got 0.5"),
        ({"ignored": True}, "are whole numbers and must be 0 to 255; got True"),
        ({"classes": ["a", "b"]}, r"`classes` must give names by ids, such as \{0: background, 255: pet\}"),
        ({"classes": {"sky": 0}}, "`classes` must give names by ids"),
        ({"classes": {0: "a", 2: "b"}, "ignored": []}, r"has the label ids 1; known are 0, 2\. HINT: `classes="),
    ],
)
def test_meanings_that_cannot_be_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(make(tmp_path, 0, 1), **options)


@pytest.mark.parametrize(
    ("names", "ignored", "message"),
    [
        ([(0, "a"), (255, "b")], 255, r"labels.json': An id must be a class or ignored, not both; 255 is 'b'"),
        ([(0, "a"), (1, "b")], 700, r"labels.json': .* must be 0 to 255; got 700"),
        ([(0, "a"), (0.5, "b")], 255, r"labels.json' must be of the form .* whole number; got 0.5"),
        ([(0, "a"), (True, "b")], 255, r"labels.json' must be of the form .* whole number; got True"),
        ([(0, "a"), (1, "b")], 2.5, r"labels.json' must be of the form .* whole number; got 2.5"),
        ([(0, "a"), (0, "b")], 255, r"labels.json' must give each class an id of its own; it has 0, 0"),
    ],
)
def test_a_labels_file_that_contradicts_itself_is_refused(
    tmp_path: Path, names: list[tuple[int, str]], ignored: int, message: str
) -> None:
    classes = [{"id": number, "name": name} for number, name in names]
    (make(tmp_path, 0, 1) / "labels.json").write_text(json.dumps({"ignore_index": ignored, "classes": classes}))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_the_configuration_maps_ids(tmp_path: Path) -> None:
    conf = OmegaConf.merge({"seed": 0}, {"data": OmegaConf.load(CONF)})
    conf.data.root = str(make(tmp_path, 0, 3, 255))
    conf.data.merge_with(OmegaConf.from_dotlist(["ignored=[3]", "image_size=16"]))
    conf.data.classes = {0: "background", 255: "pet"}
    data = instantiate(conf.data)
    data.setup("validate")
    assert data.class_names == ("background", "pet")
    assert data.val_dataloader().dataset[0][1].flatten()[:3].tolist() == [0, 255, 1]
    with pytest.raises(ValueError, match="`classes` is of the masks in `root`, which is not given"):
        mask_data(classes={0: "background"})


def test_masks_in_the_layout_of_voc_may_have_class_names_of_their_own(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, members in (("train", "ab"), ("val", "cd")):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(members))
        for name in members:
            save(base, "SegmentationClass", f"{name}.png", np.resize(np.array([0, 1, 255], dtype=np.uint8), (16, 16)))
            save(base, "JPEGImages", f"{name}.jpg", np.zeros((16, 16, 3), dtype=np.uint8))
    data = VOCSegmentationDataModule(tmp_path, image_size=16, class_names=("ground", "crack"))
    assert (data.num_classes, data.class_names) == (2, ("ground", "crack"))
