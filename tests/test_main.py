import html
import json
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from commands import run
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig

from lightning_nas import Architecture, Estimator, load_subnet
from lightning_nas.__main__ import main
from lightning_nas.estimator.measure import settings
from lightning_nas.jobs.command_line import find_groups
from lightning_nas.jobs.estimator_command_line import BACKENDS
from lightning_nas.jobs.recipes import recipes

TINY = [
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "data.image_size=32",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]
# What takes long and is tested by itself: options tried on images, candidates compared, steps of the search.
FEW = ["search.selection.num_candidates=2", "num_refitted=2", "num_calibration_batches=2"]
SHORT = [*FEW, "num_trial_images=4", "space.expansions=[2,6]", "space.ratios=[0.5,1.0]"]
DECOUPLED = [*SHORT, "search.method.steps=3"]
DIGITS = [*FEW, "search.method.steps=3", "data.scenes_per_digit=1"]
# What a tiny run of one recipe needs besides.
OTHERS = {
    "multishot": ["search.trials=2", "search.rungs=[]", "num_trial_images=4"],
    "detection": DECOUPLED,
    "segmentation": DECOUPLED,
    "classification": [*SHORT, "+network.width_mult=0.5"],
    "digits": DIGITS,
}


def command(*arguments):
    return [sys.executable, "-m", "lightning_nas", *arguments]


def run_dir(folder):
    return next((folder / "outputs").glob("*/*"))


def test_without_arguments_it_lists_the_recipes(tmp_path):
    done = subprocess.run(command(), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert all(re.search(rf"^  {name} +\w", done.stdout, re.MULTILINE) for name in recipes())
    assert {"digits", "classification", "estimator"} <= set(recipes())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", sorted(set(recipes()) - {"advise", "estimator"}))
def test_recipe_from_start_to_result(tmp_path, recipe):
    done = run(tmp_path, "--config-name", recipe, "latency=0.6x", "seed=3", *TINY, *OTHERS.get(recipe, []))
    assert done.returncode == 0, done.stderr
    folder = run_dir(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"result.json", "architecture.json", "subnet.safetensors", "report.html", ".hydra", "checkpoints"} <= names
    assert (folder / "architecture.svg").read_text().startswith("<svg")
    result = json.loads((folder / "result.json").read_text())
    assert list(result) == ["recipe", "task", "device", "seed", "budget", "baseline", "subnet", "search", "versions"]
    cost = ["latency_ms", "verified_latency_ms", "parameter_bytes", "peak_activation_bytes", "macs", "metric", "steps"]
    assert list(result["subnet"]) == list(result["baseline"]) == cost
    assert (result["recipe"], result["device"], result["seed"]) == (recipe, "ethos_u85_1024", 3)
    # What multishot finds was a trial, whose steps are its own; a supernet's are counted apart.
    searched = 0 if recipe == "multishot" else result["search"]["steps"]
    assert result["baseline"]["steps"] == searched + result["subnet"]["steps"] == 6
    described = json.loads((folder / "run.json").read_text())
    assert len(described["classes"]) == {"detection": 10, "segmentation": 11}.get(result["task"], 10)
    shape = json.loads((folder / "architecture.json").read_text())["network"]["image_shape"]
    assert described["preprocessing"]["image_size"] == shape[:2]
    assert re.search(r"Data 'digit.*', 1[01] classes: .*0, 1, 2", done.stdout)
    taught_by = described.get("taught_by")
    assert taught_by in ("source", "baseline")
    said = r"The (\w+) teaches the subnet; on validation images the source has .* ([\d.e-]+), the baseline ([\d.e-]+)"
    told = re.search(said, done.stdout)
    assert (told is not None) == (recipe in ("detection", "digits", "segmentation"))
    if told is not None:
        assert taught_by == told[1] == ("baseline" if float(told[3]) > float(told[2]) else "source")
    assert result["budget"]["latency_ms"] == pytest.approx(0.6 * result["baseline"]["latency_ms"])
    assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]
    architecture = Architecture.from_json((folder / "architecture.json").read_text())
    estimator = Estimator.load("ethos_u85_1024")
    assert estimator.latency_ms(architecture) == pytest.approx(result["subnet"]["latency_ms"])
    subnet = load_subnet(folder)
    example = torch.zeros(1, *architecture.input_size)
    assert estimator.latency_ms(subnet, example) == pytest.approx(result["subnet"]["latency_ms"])
    assert f"{result['subnet']['latency_ms']:.4f}" in done.stdout
    report = html.unescape((folder / "report.html").read_text())
    assert "<svg" in report
    if recipe != "multishot":
        # The report says what the log says, and the figures behind it.
        assert result["search"]["warnings"]
        assert all(text in report and text in done.stdout for text in result["search"]["warnings"])
        assert result["search"]["readiness"]["text"] in report


BAD = [
    (["--config-name", "digits", "latency=0"], "latency=0 is not valid"),
    (["--config-name", "digits", "latency=-2"], "latency=-2 is not valid"),
    (["--config-name", "digits", "latency=nan"], "latency=nan is not valid"),
    (["--config-name", "digits", "latency=0.01x"], r"below what the space can reach: [\d.]+ \(minimum\)"),
    (["--config-name", "digits", "latency=null"], "at least one of latency"),
    (["--config-name", "digits", "device=abacus"], "ethos_u85_1024(.|\n)*abacus"),
    (
        ["--config-name", "digits", "space.widths={features.2.conv.2: [20]}"],
        r"Width 20 of features\.2\.conv\.2 is not a multiple of the device's 16 lanes",
    ),
    (["--config-name", "digits", "network.name=resnet18"], "resnet18 does not take"),
    (["--config-name", "digits", "network=resnet_18"], "Unknown network 'resnet_18'.* near are resnet18"),
    (["--config-name", "digits", "supernet=timm"], "no setting `supernet`. HINT: network=timm"),
    (["--config-name", "digits", "latencies=0.5x"], "latencies(.|\n)*Its keys are: .*latency"),
    (["--config-name", "digits", "latncy=0.6x"], r"'latncy'\.\nDid you mean `latency`\?\nIts keys are: .*latency"),
    (
        ["--config-name", "digits", "network.wieghts=imagenet"],
        r"Did you mean `network\.weights`\?\nThe keys of `network` are: ([a-z_]+, )*name, ([a-z_]+, )*weights",
    ),
    (["--config-name", "digits", "netwrok.name=x"], r"Did you mean `network`\?\nIts keys are: .*latency"),
    (["--config-name", "digits", "epochs.source=-1"], "`epochs.source` must be at least 0; got -1"),
    (["--config-name", "digits", "epochs.search=0"], "`epochs.search` must be at least 1; got 0"),
    (["--config-name", "multishot", "search.sampler=tpe"], "`search.sampler` must be one of evolution, nsga2; got"),
    (["--config-name", "multishot", "search.trials=0"], "`trials` must be at least 1; got 0"),
    (["--config-name", "multishot", "latency=0.01x"], "out of reach everywhere(.|\n)*At input size 32: .*below what"),
    (["--config-name", "digits", "search=joint", "shared_dir=shared"], "`shared_dir` needs search=decoupled"),
    (
        ["--config-name", "digits", "comparisons=[best]"],
        "each item one of uniform, random, rule, stock, taught; got (.|\n)*best",
    ),
    (["--config-name", "digits", "taught_by=me"], "`taught_by` must be one of source, baseline, best; got 'me'"),
    (["--config-name", "digits", "search.choices=depth"], "`search.choices` must be one of both, widths, kinds; got"),
    (["--config-name", "digitz"], "no recipe 'digitz'; there are: advise, classification, detection, digits"),
    (["--config-name", "classification", "data.root=nowhere"], "nowhere"),
    (["--config-name", "classification", "data.root=empty"], "empty"),
    (["--config-name", "classification", "network.weights=none.pth"], "no file of weights at 'none.pth'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_message_and_leaves_nothing(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("recipe", recipes())
def test_launchers_can_tell_the_folder_of_a_sweep_before_it_begins(recipe, monkeypatch):
    # That of submitit asks for it when Hydra has not yet said which settings are those of the job.
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    find_groups()
    with initialize_config_module("lightning_nas.recipes", version_base=None):
        hydra = compose(recipe, return_hydra_config=True).hydra
    assert hydra.sweep.dir.startswith(f"multirun/{recipe}/20")
    assert hydra.run.dir.startswith(f"outputs/{recipe}/20")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_names_all_there_is_without_pytorch(arguments):
    code = "import sys; from lightning_nas.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("estimator COMMAND", "report FOLDER", "--version", "latency=0.6x"))


@pytest.mark.parametrize(("name", "word"), [("estimator", "granularity"), ("report", "folder")])
def test_help_of_a_command_is_there_without_pytorch(name, word):
    code = (
        "import sys\nfrom lightning_nas.__main__ import main\ntry: main(sys.argv[1:])\nexcept SystemExit as stopped:"
        " assert stopped.code == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def test_the_parser_knows_all_backends():
    assert BACKENDS == settings.BACKENDS


def test_the_version_is_said(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"lightning-nas {version('lightning-nas')}\n"


def test_a_command_that_there_is_not_is_named(capsys):
    for given, meant in (("digits", "--config-name digits"), ("digit", "--config-name digits"), ("reprot", "report")):
        with pytest.raises(SystemExit, match="2"):
            main([given, "latency=0.6x"])
        error = capsys.readouterr().err
        assert f"There is no command {given!r}; there are `estimator`, `report`" in error
        assert f"Did you mean `{meant}`?" in error
    with pytest.raises(SystemExit, match="2"):
        main(["abacus"])
    assert "Did you mean" not in capsys.readouterr().err


def test_bad_input_to_a_process_of_its_own(tmp_path):
    started = command("--config-name", "digits", "latency=0.01x")
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "below what the space can reach" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_weights_that_need_no_training_and_are_averaged(tmp_path):
    averaging = ["epochs.source=0", "averaging=ema", "averaging.decay=0.5"]
    done = run(tmp_path, "--config-name", "digits", *TINY, *DIGITS, *averaging)
    assert done.returncode == 0, done.stderr
    trained = {path.name: path for path in (run_dir(tmp_path) / "checkpoints").glob("*.ckpt")}
    names = ("search", "finetune", "baseline")
    assert trained.keys() == {f"{name}{part}.ckpt" for name in names for part in ("", ".previous")}
    averaged = {name for name, path in trained.items() if "averaging_state" in torch.load(path, weights_only=True)}
    assert averaged == {name for name in trained if not name.startswith("search")}


def test_interrupted_run_goes_on(tmp_path):
    arguments = ["--config-name", "digits", *TINY, *DIGITS, "epochs.search=2", "hydra.run.dir=run"]
    stopped = run(tmp_path, *arguments, signal_at_checkpoint=["search.ckpt"])
    assert stopped.returncode == 130
    assert re.search(r"Stopped by SIGINT.* To go on, repeat the command with hydra.run.dir=\S*run\b", stopped.stdout), (
        stopped.stderr
    )
    saved = torch.load(tmp_path / "run" / "checkpoints" / "search.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert not (tmp_path / "run" / "result.json").exists()
    other = run(tmp_path, *arguments, "seed=9")
    assert other.returncode == 2
    assert "a run of other settings" in other.stderr
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()
