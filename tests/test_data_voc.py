"""Pascal VOC: boxes counted from 1, difficult objects, and mistakes in the folder."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lightning_nas.data.loading import Loading
from lightning_nas.data.voc import VocDetectionDataModule

CONF = Path(__file__).parents[1] / "conf" / "data"
OBJECT = """<object><name>{name}</name>{difficult}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
OBJECTS = (("dog", (11, 21, 50, 40), 0), ("person", (1, 1, 80.0, 60), 1))


def make(root: Path, year: str = "2012", splits: tuple[str, ...] = ("train", "val"), objects=OBJECTS) -> Path:
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split in splits:
        names = [f"{split}_{number}" for number in range(3)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            Image.new("RGB", (80, 60)).save(folder / "JPEGImages" / f"{name}.jpg")
            texts = [
                OBJECT.format(name=kind, box=box, difficult=f"<difficult>{difficult}</difficult>")
                for kind, box, difficult in objects
            ]
            size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
            xml = f"<annotation><filename>{name}.jpg</filename>{size}{''.join(texts)}</annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(xml)
    return root


def test_difficult_objects_are_for_evaluation_only(tmp_path: Path) -> None:
    data = VocDetectionDataModule(make(tmp_path), image_size=(60, 80), augment=None, loading=Loading(batch_size=2))
    data.setup("fit")
    assert (data.num_classes, data.class_names[14], data.input_size) == (20, "person", (3, 60, 80))
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 60, 80)
    assert [target["labels"].tolist() for target in targets] == [[11], [11]]
    assert targets[0]["boxes"].tolist() == [[10, 20, 50, 40]]
    _, targets = next(iter(data.val_dataloader()))
    assert targets[1]["labels"].tolist() == [11, 14]
    assert targets[1]["boxes"][1].tolist() == [0, 0, 80, 60]


def test_val_stands_in_for_test_where_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = VocDetectionDataModule(make(tmp_path), image_size=32)
    data.setup("test")
    assert "has no `test` split" in caplog.text
    assert "has no box of aeroplane, bicycle, bird and 16 more" in caplog.text
    assert len(data.test_dataloader().dataset) == 3


def test_year_with_test_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = VocDetectionDataModule(make(tmp_path, "2007", ("train", "val", "test")), year=2007, image_size=32)
    data.setup()
    assert "has no `test` split" not in caplog.text
    assert data.test_dataloader().dataset is not data.val_dataloader().dataset


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    make(tmp_path)
    xml = tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "train_0.xml"
    xml.write_text("<annotation><filename>x</filename></annotation>")
    data = VocDetectionDataModule(tmp_path, image_size=32)
    data.setup("fit")
    _, targets = data.train_dataloader().dataset.__getitems__([0, 1])
    assert targets[0]["boxes"].shape == (0, 4)
    assert torch.equal(targets[1]["labels"], torch.tensor([11]))


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold Pascal VOC 2012; .*train\.txt.*HINT: download=True"):
        VocDetectionDataModule(tmp_path)
    with pytest.raises(ValueError, match=r"`year` must be one of 2007, .*; got 2013"):
        VocDetectionDataModule(tmp_path, year=2013)
    with pytest.raises(ValueError, match=r"the classes are aeroplane, .*; got unicorn, such .*_\d\.xml'. HINT"):
        VocDetectionDataModule(make(tmp_path, objects=(("unicorn", (1, 1, 9, 9), 0),)))
    make(tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "val_2.jpg").unlink()
    with pytest.raises(ValueError, match=r"val\.txt' must exist; 1 of 3 do not, first '.*val_2\.jpg'"):
        VocDetectionDataModule(tmp_path)
    for text in ("<annotation>", "<other/>", OBJECT.format(name="dog", box=("a", 1, 2, 3), difficult="")):
        (folder / "Annotations" / "train_1.xml").write_text(text)
        with pytest.raises(ValueError, match=r"train_1\.xml' must be a VOC annotation"):
            VocDetectionDataModule(tmp_path)


def test_classes_of_ones_own_are_named(tmp_path: Path) -> None:
    make(tmp_path, objects=(("crack", (11, 21, 50, 40), 0), ("rust", (1, 1, 9, 9), 0)))
    with pytest.raises(ValueError, match=r"train\.txt': the classes are crack; got rust, such as in '.*train_\d\.xml'"):
        VocDetectionDataModule(tmp_path, class_names=["crack"])
    with pytest.raises(ValueError, match="`class_names` must be different names; got crack, crack"):
        VocDetectionDataModule(tmp_path, class_names=["crack", "crack"])
    conf = OmegaConf.merge({"seed": 2}, {"data": OmegaConf.load(CONF / "voc.yaml")})
    data = instantiate(conf.data, root=str(tmp_path), image_size=64, class_names=["rust", "crack"])
    data.setup("validate")
    assert (data.num_classes, data.class_names) == (2, ("rust", "crack"))
    assert data.val_dataloader().dataset[0][1]["labels"].tolist() == [1, 0]


def test_configuration(tmp_path: Path) -> None:
    conf = OmegaConf.merge({"seed": 2}, {"data": OmegaConf.load(CONF / "voc.yaml")})
    data = instantiate(conf.data, root=str(make(tmp_path)))
    assert (data.input_size, data.seed, data.root) == ((3, 192, 256), 2, tmp_path)
