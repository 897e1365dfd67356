"""Cut test images of a classifier of people from photos with boxes: ``python presence_crops.py OUT COCO_FOLDER ...``.

171 test images of `person_presence96` cannot tell two networks apart that differ by a hundredth. Photos of another data
set, none of which it shares, give seven times as many by its rule: a square crop shows a person where at least 70 % of
some box lie within it and cover 8 to 90 % of it, and no person where it touches no box and is not too small. They are
for ``data.extra_test_root=OUT``: nothing is trained or chosen by them.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

SIDE = 96
"""Pixels of what is written."""
SMALLEST = 50
"""Pixels of the smallest crop: 110 of a photo of 640, in one whose longer side is 288."""
TRIES = 300


def cut(image, boxes, rng):
    """Return a crop with a person and one without, as far as some draws find them.

    Args:
        image: The photo.
        boxes: Left, top, right and bottom of each person, in pixels.
        rng: Draws the crops.
    """
    found = {}
    for _ in range(TRIES):
        side = rng.uniform(SMALLEST, min(image.size))
        left, top = (rng.uniform(0, length - side) for length in image.size)
        shown = [_overlap((left, top, left + side, top + side), box) for box in boxes]
        if not any(shown):
            kind = "no_person"
        elif any(
            part >= 0.7 * (right - x) * (bottom - y) and 0.08 <= part / side**2 <= 0.9
            for part, (x, y, right, bottom) in zip(shown, boxes, strict=True)
        ):
            kind = "person"
        else:
            continue
        if kind not in found:
            edges = [round(edge) for edge in (left, top, left + side, top + side)]
            found[kind] = image.crop(edges).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return found


def _overlap(one, other):
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return max(0.0, width) * max(0.0, height)


def main(out, folders):
    rng, counts = random.Random(0), Counter()
    for file in sorted(path for folder in folders for path in folder.glob("annotations/instances_*.json")):
        split, content = file.stem.removeprefix("instances_"), json.loads(file.read_text())
        boxes = {record["id"]: [] for record in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            boxes[annotation["image_id"]].append((x, y, x + width, y + height))
        for record in content["images"]:
            photo = Image.open(file.parents[1] / "images" / split / record["file_name"]).convert("RGB")
            for kind, crop in cut(photo, boxes[record["id"]], rng).items():
                (out / kind).mkdir(parents=True, exist_ok=True)
                crop.save(out / kind / f"{record['id']:012d}.jpg", quality=85)
                counts[kind] += 1
    sys.stdout.write(f"{dict(counts)} in {out}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
