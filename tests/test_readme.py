"""What the README and the pages of docs show runs: Python page by page, commands as far as they can be composed."""

import functools
import inspect
import re
import shlex
import shutil
from copy import deepcopy
from dataclasses import replace
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
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import ArchitectureSearch
from lightning_nas.__main__ import main
from lightning_nas.jobs import command_line
from lightning_nas.jobs.command_line import find_groups
from lightning_nas.jobs.recipes import recipes
from lightning_nas.search import Decoupled
from lightning_nas.supernet import derive, space_of, stock_network, supernet_from
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet_files import write_subnet

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
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


def blocks(language):
    """Return the blocks of a language by the page that they are on, in order."""
    found = {name: re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}
    return {name: blocks for name, blocks in found.items() if blocks}


def finished_run(folder):
    """Write what `load_subnet` reads of a finished run."""
    source = {"name": "mobilenetv2_050", "num_classes": 4}
    network, image = stock_network(**source), torch.zeros(1, 3, 64, 64)
    origin, space = deepcopy(network), space_of(network, image)
    architecture = space.decode(space.reference_encoding)
    subnet = derive(supernet_from(network, image, space), architecture)
    folder.mkdir(parents=True)
    described = {"task": "classification", "source": source}
    write_subnet(folder, architecture, Rebuilding.of(origin, subnet), subnet.state_dict(), described)


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
    begin = ArchitectureSearch.__init__

    @functools.wraps(begin)
    def briefly(self, *arguments, **options):
        begin(self, *arguments, **options)
        self.selection = replace(self.selection, num_candidates=2, num_evaluations=4)
        if isinstance(self.training, Decoupled):
            self.training = replace(self.training, steps=10)

    monkeypatch.setattr(ArchitectureSearch, "__init__", briefly)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The dirpath has changed")
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("page", list(blocks("python")))
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = of_user()
    for number, block in enumerate(blocks("python")[page], start=1):
        for folder in re.findall(r'"(outputs/[^"]+)"', block):
            if not Path(folder).exists():
                finished_run(Path(folder))
        if "last.ckpt" in block:
            shutil.copy(max(Path().rglob("*.ckpt"), key=lambda path: path.stat().st_mtime), "last.ckpt")
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    if "subnet" in names:
        # What is derived is the user's own module around a plain network.
        assert isinstance(names["subnet"], Model)
        assert not [m for m in names["subnet"].modules() if type(m).__module__.startswith("lightning_nas")]
        assert names["subnet"].backbone(names["images"]).shape == (16, 4)


def commands():
    """Return the words of every command in a block for the console."""
    lines = [line for found in blocks("console").values() for block in found for line in block.splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split(" && ") if part.strip()]


def composed(recipe, overrides):
    """Compose a recipe with overrides; a sweep with each value of each list."""
    find_groups()
    overrides = command_line._with_network(recipe, overrides)
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


# Files of a user's own, by --config-dir, are run in tests/test_own_recipe.py.
SHIPPED = [words for words in commands() if {"--config-name", "--config-dir"} & {*words} == {"--config-name"}]


@pytest.mark.parametrize("words", SHIPPED, ids=" ".join)
def test_a_recipe_takes_the_overrides_that_are_shown(words):
    flags = [word for word in words[1:] if word.startswith("-")]
    assert set(flags) <= {"--config-name", "-m"}
    recipe = words[words.index("--config-name") + 1]
    overrides = [word for word in words[1:] if not word.startswith("-") and word != recipe]
    configs = composed(recipe, overrides)
    assert len(configs) > 1 or "-m" not in flags
    assert not [key for config in configs for key in config if OmegaConf.is_missing(config, key)]


ESTIMATOR = [words for words in commands() if words[:2] == ["lightning-nas", "estimator"]]


@pytest.mark.parametrize("words", ESTIMATOR, ids=" ".join)
def test_the_estimator_command_takes_the_options_that_are_shown(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["estimator", "--help"])
    assert stopped.value.code == 0
    known = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert {words[2], *(word for word in words if word.startswith("--"))} <= known, words


def test_other_commands_are_known_and_extras_exist():
    extras = metadata("lightning-nas").get_all("Provides-Extra")
    others = [words for words in commands() if words[0] != "lightning-nas" and words[:2] != ["python", "-m"]]
    assert {words[0].partition("=")[0] for words in others} <= {"pip", "pytest", "folder", "ruff", "mypy", "python"}
    named = re.findall(r"(?:lightning-nas|'\.)\[([\w,]+)\]", "".join(PAGES.values()))
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_every_recipe_that_the_readme_names_exists():
    named = set(re.findall(r"(?<!--config-dir \. )--config-name (\w+)", "".join(PAGES.values())))
    assert named <= set(recipes())


def test_links_lead_somewhere():
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
        assert not [link for link in links if not (folder / link).exists()], name


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150
