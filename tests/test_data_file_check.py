"""Every image file is opened before anything trains: all bad ones are named together, and none is opened twice."""

import logging
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_data_coco
import test_data_masks
import test_data_voc
from PIL import Image
from plans import plans

from lightning_nas import ArchitectureSearch, Estimator
from lightning_nas.data import _file_check
from lightning_nas.data._file_check import MAX_NAMED, check_files
from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.masks import MaskFolderDataModule
from lightning_nas.data.pets import PetsDataModule
from lightning_nas.data.voc import VocDetectionDataModule
from lightning_nas.jobs.multishot import evolve_and_finetune
from lightning_nas.jobs.plan import Epochs, MultishotPlan, SearchPlan
from lightning_nas.jobs.search import search_and_finetune
from lightning_nas.multishot.evolution import Evolution
from lightning_nas.supernet import stock_network
from lightning_nas.tasks.classification import Classification

SETTING = [[1, 16, 1, 1], [4, 32, 1, 2], [4, 48, 1, 2]]


def save(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """Save noise: of even colour the second half of a JPEG takes hardly a byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def cut_off(path: Path) -> Path:
    save(path)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def no_image(path: Path) -> Path:
    path.write_bytes(b"<html>404</html>")
    return path


def make_folder(root: Path, count: int = 3) -> Path:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for number in range(count):
                save(root / split / name / f"{number}.jpg")
    return root


def folder_of_images(root: Path):
    make_folder(root)
    return ImageFolderDataModule, [no_image(root / "train/cat/1.jpg"), cut_off(root / "test/dog/2.jpg")]


def coco(root: Path):
    test_data_coco.make(root)
    return CocoDataModule, [no_image(root / "images/train/0.png"), cut_off(root / "images/test/3.png")]


def coco_with_whole_headers(root: Path):
    test_data_coco.make(root)
    return CocoDataModule, [cut_off(root / "images/val/0.png"), cut_off(root / "images/test/3.png")]


def voc(root: Path):
    test_data_voc.make(root, "2007", ("train", "val", "test"))
    images = root / "VOCdevkit/VOC2007/JPEGImages"
    bad = [no_image(images / "train_0.jpg"), cut_off(images / "test_2.jpg")]
    return lambda folder: VocDetectionDataModule(folder, "2007"), bad


def masks(root: Path):
    test_data_masks.make(root)
    bad = [no_image(root / "masks/train/1.png"), cut_off(root / "images/val/0.png"), root / "masks/test/2.png"]
    bad[2].write_bytes(bad[2].read_bytes()[:-30])
    return MaskFolderDataModule, bad


def pets(root: Path):
    base = root / "oxford-iiit-pet"
    ids = test_data_masks.halves(1, 2, (60, 80))
    names = {"trainval": [f"Abyssinian_{number}" for number in range(6)], "test": ["beagle_1"]}
    for split, members in names.items():
        for name in members:
            save(base / "images" / f"{name}.jpg")
            test_data_masks.save_mask(base / "annotations/trimaps" / f"{name}.png", ids)
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in members))
    return PetsDataModule, [cut_off(base / "images/Abyssinian_0.jpg"), cut_off(base / "images/beagle_1.jpg")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [folder_of_images, coco, coco_with_whole_headers, voc, masks, pets])
def test_one_message_names_the_bad_files_of_all_splits(tmp_path: Path, make) -> None:
    datamodule, bad = make(tmp_path)
    with pytest.raises(ValueError, match=f"^{len(bad)} of \\d+ image files cannot be used:") as error:
        datamodule(tmp_path).prepare_data()
    assert sorted(re.findall(r"\n  '(.*)' must be a readable image", str(error.value))) == sorted(map(str, bad))


def test_a_bad_test_image_is_found_where_only_training_is_set_up(tmp_path: Path) -> None:
    cut_off(make_folder(tmp_path) / "test/cat/0.jpg")
    with pytest.raises(ValueError, match=r"test/cat/0.jpg' must be a readable image; .* truncated"):
        ImageFolderDataModule(tmp_path, image_size=16).setup("fit")


def test_of_many_bad_files_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    files = [tmp_path / f"{number:02}.jpg" for number in range(MAX_NAMED + 5)]
    with pytest.raises(ValueError, match=r"\n  and 5 more\.$") as error:
        check_files([*files, save(tmp_path / "good.jpg")])
    assert str(error.value).startswith(f"{MAX_NAMED + 5} of {MAX_NAMED + 6} image files")
    assert str(error.value).count("No such file") == MAX_NAMED


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the names of the files that are opened are added."""
    found: list[str] = []
    look = _file_check._mistake
    monkeypatch.setattr(_file_check, "_mistake", lambda path: found.append(path.name) or look(path))
    return found


def test_a_file_is_opened_once_until_it_changes(tmp_path: Path, opened: list[str]) -> None:
    files = [save(tmp_path / f"{number}.jpg") for number in range(5)]
    check_files(files)
    assert sorted(opened) == [file.name for file in files]
    opened.clear()
    check_files(files)
    assert opened == []
    os.utime(files[1], ns=(0, 0))
    save(files[3], size=(60, 60))
    check_files([*files, save(tmp_path / "new.jpg")])
    assert sorted(opened) == ["1.jpg", "3.jpg", "new.jpg"]


def test_modules_for_several_sizes_of_images_open_the_files_once(tmp_path: Path, opened: list[str]) -> None:
    make_folder(tmp_path)
    for size in (16, 24):
        data = ImageFolderDataModule(tmp_path, image_size=size)
        data.prepare_data()
        data.setup()
    assert len(opened) == 18


def test_only_what_was_bad_is_opened_again(tmp_path: Path, opened: list[str]) -> None:
    files = [save(tmp_path / f"{number}.jpg") for number in range(5)]
    cut_off(files[2])
    for _ in range(2):
        with pytest.raises(ValueError, match="1 of 5 image files"):
            check_files(files)
    assert sorted(opened) == ["0.jpg", "1.jpg", "2.jpg", "2.jpg", "3.jpg", "4.jpg"]


def test_what_was_found_before_a_stop_is_kept(tmp_path: Path, opened: list[str], monkeypatch) -> None:
    files = [save(tmp_path / f"{number}.jpg", (8, 8)) for number in range(3)]
    monkeypatch.setattr(_file_check, "CHUNK", 1)
    look = _file_check._mistake

    def stopping(path: Path) -> str | None:
        if path == files[2]:
            raise KeyboardInterrupt
        return look(path)

    with monkeypatch.context() as patch:
        patch.setattr(_file_check, "_mistake", stopping)
        with pytest.raises(KeyboardInterrupt):
            check_files(files)
    opened.clear()
    check_files(files)
    assert opened == ["2.jpg"]


def test_a_cache_that_cannot_be_used_costs_a_second_look_and_no_run(
    tmp_path: Path, opened: list[str], monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = save(tmp_path / "data" / "0.jpg")
    monkeypatch.setattr(_file_check, "cache_folder", lambda: tmp_path / "cache")
    check_files([file])
    (cache,) = (tmp_path / "cache" / "images").glob("*.json")
    cache.write_text('{"files": {"0.jpg": "yes"}}')
    check_files([file])
    monkeypatch.setattr(_file_check, "cache_folder", lambda: tmp_path / "data" / "0.jpg")
    with caplog.at_level(logging.WARNING):
        check_files([file])
    assert opened == ["0.jpg"] * 3
    assert "the next run opens them again" in caplog.text


def no_trainer(**_: object) -> None:
    raise AssertionError("A Trainer is made before the files are opened.")


@pytest.mark.parametrize("job", [search_and_finetune, evolve_and_finetune])
def test_a_job_ends_with_the_bad_files_before_anything_trains(tmp_path: Path, caplog, job) -> None:
    root = make_folder(tmp_path / "pets")
    bad = [cut_off(root / "test/cat/0.jpg"), no_image(root / "val/dog/1.jpg")]
    data = partial(ImageFolderDataModule, root, image_size=32)
    several = job is evolve_and_finetune
    settings = {
        "recipe": "test",
        "output_dir": tmp_path / "run",
        "seed": 0,
        "latency": "0.9x",
        "parameter_bytes": None,
        "peak_activation_bytes": None,
        "network": partial(stock_network, name="mobilenet_v2", width_mult=0.5, inverted_residual_setting=SETTING),
        "space": {"expansions": [2, 4], "ratios": [0.5, 1.0]},
        "data": data if several else data(),
        "device": "analytic_array",
        "estimator": partial(Estimator.load, lanes=8),
        "search": Evolution(trials=3, population=2) if several else ArchitectureSearch,
        "task": Classification,
        "trainer": no_trainer,
        "logger": no_trainer,
        "epochs": Epochs(source=1, search=1, finetune=1),
    }
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="2 of 18 image files cannot be used") as error:
        job(**plans(MultishotPlan if several else SearchPlan, settings))
    assert all(f"'{file}' must be a readable image" in str(error.value) for file in bad)
    assert re.search(
        r"'pets', 2 classes.*\n +train +val +test\n0 cat +3 +3 +3\n1 dog +3 +3 +3\nall +6 +6 +6", caplog.text
    )
    assert not (tmp_path / "run").exists()
