"""Further test images of people and none, cut from photos with boxes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parent / "benchmarks" / "presence_crops.py"


def test_crops_show_a_person_or_none_by_the_boxes(tmp_path):
    (tmp_path / "photos" / "annotations").mkdir(parents=True)
    (tmp_path / "photos" / "images" / "val").mkdir(parents=True)
    # A person is blue, the rest is red: a crop tells by itself what is on it.
    photo = Image.new("RGB", (256, 192), (250, 0, 0))
    photo.paste((0, 0, 250), (150, 60, 200, 150))
    photo.save(tmp_path / "photos" / "images" / "val" / "a.png")
    Image.new("RGB", (200, 160), (250, 0, 0)).save(tmp_path / "photos" / "images" / "val" / "b.png")
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab", 1)]
    content = {"images": images, "annotations": [{"id": 1, "image_id": 1, "bbox": [150, 60, 50, 90]}]}
    (tmp_path / "photos" / "annotations" / "instances_val.json").write_text(json.dumps(content))

    done = subprocess.run([sys.executable, SCRIPT, "out", "photos"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    crops = {}
    for path in tmp_path.glob("out/*/*.jpg"):
        with Image.open(path) as crop:
            crops[path.relative_to(tmp_path / "out").as_posix()] = np.asarray(crop.convert("RGB"))
    names = ["no_person/000000000001.jpg", "no_person/000000000002.jpg", "person/000000000001.jpg"]
    assert sorted(crops) == names
    blue = {name: (crop[..., 2] > 125).mean() for name, crop in crops.items()}
    assert blue[names[0]] == blue[names[1]] == 0
    assert 0.08 <= blue[names[2]] <= 0.9
