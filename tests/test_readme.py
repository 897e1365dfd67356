import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import derive, refit

README = Path(__file__).parent.parent / "README.md"


class Model(pl.LightningModule):
    """A user's module with a backbone of timm."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("mobilenetv2_050", num_classes=4)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.backbone(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Data(pl.LightningDataModule):
    """A user's data."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_callback_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    examples = re.findall(r"tests/test_readme.py. -->\n```python\n(.*?)```", text, re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.rand(16, 3, 64, 64, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    data = Data(TensorDataset(images, targets))
    names = {"model": Model(), "example_input": images[:1], "datamodule": data}
    exec(examples[0], names)
    subnet, search = names["subnet"], names["search"]
    budget = search.budgets.limits[0].budget
    assert names["Estimator"].load("ethos_u85_1024").latency_ms(subnet.backbone.eval(), images[:1]) <= budget
    assert not [m for m in subnet.backbone.modules() if type(m).__module__.startswith("lightning_nas")]
    assert subnet.backbone(images).shape == (16, 4)
    exec(examples[1], {**names, "images": images, "derive": derive, "refit": refit})
    assert subnet.backbone(images).shape == (16, 4)
    names["MyModule"] = Model
    exec(examples[2], names)
    assert torch.equal(names["again"].backbone(images), subnet.eval().backbone(images))


def test_every_recipe_that_the_readme_names_exists():
    from lightning_nas.__main__ import recipes

    named = set(re.findall(r"--config-name (\w+)", README.read_text(encoding="utf-8")))
    assert named <= set(recipes())
