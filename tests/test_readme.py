"""What the README shows runs: its Python in the order of its sections, its commands as far as they can be composed."""

import functools
import inspect
import json
import re
import runpy
import shlex
import shutil
import sys
from importlib.metadata import metadata
from pathlib import Path

import hydra
import lightning.pytorch as pl
import pytest
import timm
import torch
import torch.nn.functional as F
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import ArchitectureSearch
from lightning_nas.__main__ import recipes
from lightning_nas.supernet import derive, space_of, stock_network, supernet_from

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
MAX_EPOCHS = 2


class Model(pl.LightningModule):
    """A user's module with a backbone of timm."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("mobilenetv2_050", num_classes=4)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.backbone(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.backbone(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Data(pl.LightningDataModule):
    """A user's data."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)

    def val_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)


def of_user():
    """Return what the README says that its reader has, by the names that it says."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.rand(16, 3, 64, 64, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    return {
        "MyModule": Model,
        "model": Model(),
        "network": timm.create_model("mobilenetv2_050", num_classes=4).eval(),
        "example_input": images[:1],
        "datamodule": Data(TensorDataset(images, targets)),
        "images": images,
    }


def sections(language):
    """Return the blocks of a language by the title of their section, in order."""
    parts = re.split(r"^## (.*)$", README, flags=re.MULTILINE)
    titled = zip(parts[1::2], parts[2::2], strict=True)
    found = {title: re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for title, text in titled}
    return {title: blocks for title, blocks in found.items() if blocks}


def finished_run(folder):
    """Write what `load_subnet` reads of a finished run."""
    network, image = stock_network("mobilenetv2_050", num_classes=4), torch.zeros(1, 3, 64, 64)
    space = space_of(network, image)
    architecture = space.decode(space.reference_nodes)
    subnet = derive(supernet_from(network, image, space), architecture)
    folder.mkdir(parents=True)
    described = {**architecture.to_dict(), "task": "classification", "network": {"name": "mobilenetv2_050"}}
    (folder / "architecture.json").write_text(json.dumps(described))
    save_file(
        {name: tensor.contiguous() for name, tensor in subnet.state_dict().items()}, folder / "subnet.safetensors"
    )


@pytest.fixture
def brief(monkeypatch):
    """Have Trainers stop after a few epochs and searches after a few steps, whatever the README asks for."""
    original = pl.Trainer.__init__

    @functools.wraps(original)
    def init(self, *arguments, **options):
        given = inspect.signature(original).bind_partial(self, *arguments, **options).arguments
        epochs = min(given.get("max_epochs") or MAX_EPOCHS, MAX_EPOCHS)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        original(self, *arguments, **{**quiet, **options, "max_epochs": epochs})

    monkeypatch.setattr(pl.Trainer, "__init__", init)
    few = functools.partialmethod(ArchitectureSearch.__init__, steps=10, candidates=2, evaluations=4)
    monkeypatch.setattr(ArchitectureSearch, "__init__", few)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The dirpath has changed")
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("title", list(sections("python")))
def test_the_python_of_a_section_runs(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = of_user()
    for number, block in enumerate(sections("python")[title], start=1):
        for folder in re.findall(r'"(outputs/[^"]+)"', block):
            if not Path(folder).exists():
                finished_run(Path(folder))
        if "last.ckpt" in block:
            shutil.copy(max(Path().rglob("*.ckpt"), key=lambda path: path.stat().st_mtime), "last.ckpt")
        exec(compile(block, f"README.md, {title}, block {number}", "exec"), names)
    if "subnet" in names:
        # What is derived is the user's own module around a plain network.
        assert isinstance(names["subnet"], Model)
        assert not [m for m in names["subnet"].modules() if type(m).__module__.startswith("lightning_nas")]
        assert names["subnet"].backbone(names["images"]).shape == (16, 4)


def commands():
    """Return the words of every command in a block for the console."""
    lines = [line for blocks in sections("console").values() for block in blocks for line in block.splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split(" && ") if part.strip()]


def composed(recipe, overrides):
    """Compose a recipe with overrides; a sweep with each value of each list."""
    with hydra.initialize_config_module("lightning_nas.recipes", version_base="1.3"):
        parsed = OverridesParser.create().parse_overrides(overrides)
        plain = [override.input_line for override in parsed if not override.is_sweep_override()]
        swept = [
            f"{override.get_key_element()}={value}"
            for override in parsed
            if override.is_sweep_override()
            for value in override.sweep_string_iterator()
        ]
        return [hydra.compose(recipe, overrides=[*plain, *one]) for one in ([[value] for value in swept] or [[]])]


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "lightning-nas"], ids=" ".join)
def test_a_recipe_takes_the_overrides_that_are_shown(words):
    flags = [word for word in words[1:] if word.startswith("-")]
    assert set(flags) <= {"--config-name", "-m"}
    recipe = words[words.index("--config-name") + 1]
    overrides = [word for word in words[1:] if not word.startswith("-") and word != recipe]
    configs = composed(recipe, overrides)
    assert len(configs) > 1 or "-m" not in flags
    assert not [key for config in configs for key in config if OmegaConf.is_missing(config, key)]


MODULES = [words for words in commands() if words[:2] == ["python", "-m"]]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", sorted({words[2] for words in MODULES}))
def test_a_module_takes_the_options_that_are_shown(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert stopped.value.code == 0
    known = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    for words in (words for words in MODULES if words[2] == module):
        assert {words[3], *(word for word in words if word.startswith("--"))} <= known, words


def test_other_commands_are_known_and_extras_exist():
    extras = metadata("lightning-nas").get_all("Provides-Extra")
    others = [words for words in commands() if words[0] != "lightning-nas" and words[:2] != ["python", "-m"]]
    assert {words[0].partition("=")[0] for words in others} <= {"pip", "pytest", "folder"}
    named = re.findall(r"(?:lightning-nas|'\.)\[([\w,]+)\]", README)
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_every_recipe_that_the_readme_names_exists():
    named = set(re.findall(r"--config-name (\w+)", README))
    assert named <= set(recipes())
