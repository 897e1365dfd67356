import pytest

from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.images import image_data


def test_embedded_digits_without_a_folder():
    assert isinstance(image_data(image_size=32), DigitsDataModule)


def test_further_test_images_need_a_folder():
    with pytest.raises(ValueError, match="adds to the images of `root`; none is given beside field"):
        image_data(extra_test_root="field")


def test_a_folder_that_is_given_is_read(tmp_path):
    from PIL import Image

    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / "1.png")
    data = image_data(tmp_path, image_size=16)
    assert isinstance(data, ImageFolderDataModule)
    assert data.class_names == ("a", "b")
    with pytest.raises(ValueError, match="missing-folder"):
        image_data(tmp_path / "missing-folder")
