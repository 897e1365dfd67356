"""Files below a folder: what systems and editors leave beside them, and folders that are links."""

from pathlib import Path

import pytest
from PIL import Image

from lightning_nas.data._walk import files_below
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.masks import MaskFolderDataModule


def save(path: Path, mode: str = "RGB", color: object = (200, 100, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 16), color).save(path)


def make(root: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            for number in range(2):
                save(root / split / kind / f"{number}.png")
    return root


def names_of(data: ImageFolderDataModule, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in data.images.files["train"].paths]


EXPECTED = ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]


@pytest.mark.parametrize(
    "left", [".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/0.png", "@eaDir/0.png", "Thumbs.db"]
)
def test_what_editors_and_systems_leave_in_a_class_folder_is_no_image(tmp_path: Path, left: str) -> None:
    path = make(tmp_path) / "train" / "cat" / left
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no image")
    data = ImageFolderDataModule(tmp_path, image_size=16)
    data.setup("fit")
    assert names_of(data, tmp_path) == EXPECTED


@pytest.mark.parametrize("left", [".ipynb_checkpoints", "__MACOSX", "@eaDir"])
def test_what_is_left_beside_class_folders_is_no_class(tmp_path: Path, left: str) -> None:
    save(make(tmp_path) / "train" / left / "0.png")
    assert ImageFolderDataModule(tmp_path, image_size=16).class_names == ("cat", "dog")


def test_linked_class_folders_and_linked_folders_in_them_are_followed(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    root = make(tmp_path / "root")
    (root / "train" / "cat" / "0.png").unlink()
    (root / "train" / "cat" / "more").symlink_to(store / "train" / "cat", target_is_directory=True)
    (root / "train" / "dog" / "0.png").unlink()
    (root / "train" / "dog" / "1.png").unlink()
    (root / "train" / "dog").rmdir()
    (root / "train" / "dog").symlink_to(store / "train" / "dog", target_is_directory=True)
    assert names_of(ImageFolderDataModule(root, image_size=16), root) == [
        *("train/cat/1.png", "train/cat/more/0.png", "train/cat/more/1.png"),
        *("train/dog/0.png", "train/dog/1.png"),
    ]


def test_a_link_to_a_folder_above_it_ends(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "0.png")
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert files_below(tmp_path, (".png",)) == [tmp_path / "deep" / "0.png"]


def test_masks_in_linked_folders_are_found_and_leftovers_are_not(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        for name in ("a", "b"):
            save(tmp_path / "store" / "images" / split / f"{name}.png")
            mask = Image.new("L", (16, 16), number)
            mask.paste(1 - number, (0, 0, 8, 16))
            (tmp_path / "store" / "masks" / split).mkdir(parents=True, exist_ok=True)
            mask.save(tmp_path / "store" / "masks" / split / f"{name}.png")
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / "root" / kind / split).mkdir(parents=True)
            link = tmp_path / "root" / kind / split / "linked"
            link.symlink_to(tmp_path / "store" / kind / split, target_is_directory=True)
    save(tmp_path / "root" / "images" / "train" / ".ipynb_checkpoints" / "a-checkpoint.png")
    data = MaskFolderDataModule(tmp_path / "root", image_size=16)
    assert [pair.mask.name for pair in data.images.files["train"]] == ["a.png", "b.png"]
