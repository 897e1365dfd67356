"""What a search step costs beside its peers: who fails is left out with the reason, figures are kept as they come."""

import argparse
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
PYTHON = sys.executable
TIMED = {"ratio": {"median": 0.9, "low": 0.8, "high": 1.0, "rounds": 1}, "step_ms": 1.0, "largest": "ibn"}


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    import search_step

    monkeypatch.setattr(search_step, "RECORD", tmp_path / "search_step.json")
    monkeypatch.setattr(search_step, "PAGE", tmp_path / "search_step.md")
    monkeypatch.setattr(search_step, "processor", lambda: "a processor")
    return search_step


def program(folder, name, body):
    """Return a program that stands in for an interpreter: what it prints is by the part that it is asked for."""
    path = folder / name
    path.write_text(f"#!{PYTHON} -S\nimport sys\nwords = sys.argv[1:]\n{body}\n")
    path.chmod(0o755)
    return path


OURS = f"print('1.5' if any(word.startswith('memory_') for word in words) else {json.dumps(json.dumps(TIMED))})"
PEERS = f"""
if 'plinio' in words:
    sys.exit("Traceback (most recent call last):\\nModuleNotFoundError: No module named 'tdigest'")
if 'memory_nni_proxyless' in words:
    sys.exit("MemoryError")
print('1.5' if words[1].startswith('memory_') else {json.dumps(json.dumps({"name": "NNI", "version": "3.0", **TIMED}))})
"""


def options(peers):
    return argparse.Namespace(threads=1, rounds=1, peers=peers)


def test_a_peer_that_fails_is_left_out_with_the_reason_and_the_others_are_kept(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(program(tmp_path, "ours", OURS)))
    benchmark.measure(options(program(tmp_path, "peers", PEERS)))
    peers = json.loads(benchmark.RECORD.read_text())["peers"]
    assert peers["plinio"] == {"skipped": "ModuleNotFoundError: No module named 'tdigest'"}
    assert peers["nni_proxyless"] == {"skipped": "MemoryError"}
    assert (
        peers["nni_darts"]["memory_mib"]
        == peers["nni_gumbel"]["memory_mib"]
        == dict.fromkeys(("search", "ibn", "fused"), 1.5)
    )
    benchmark.report()
    page = benchmark.PAGE.read_text()
    assert "| plinio | ModuleNotFoundError: No module named 'tdigest' | |" in page
    assert "| NNI 3.0 | 0.90 (0.80 to 1.00) | 1.00 |" in page


def test_figures_of_peers_are_kept_where_these_are_not_measured_again(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(program(tmp_path, "ours", OURS)))
    benchmark.measure(options(program(tmp_path, "peers", PEERS)))
    before = json.loads(benchmark.RECORD.read_text())["peers"]
    monkeypatch.setattr(benchmark, "processor", lambda: "another")
    benchmark.measure(options(None))
    assert json.loads(benchmark.RECORD.read_text())["peers"] == before
    benchmark.report()
    page = benchmark.PAGE.read_text()
    assert "Measured on 1 threads of one another with" in page
    assert "The other libraries were measured on 1 threads of one a processor with" in page


def test_what_was_measured_before_a_failure_of_our_own_is_kept(benchmark, monkeypatch, tmp_path):
    fails = "if words[2:4] == ['mobilenet_v2', 'search']:\n    sys.exit('MemoryError')\n"
    monkeypatch.setattr(sys, "executable", str(program(tmp_path, "ours", fails + OURS)))
    with pytest.raises(RuntimeError, match="MemoryError"):
        benchmark.measure(options(None))
    cases = json.loads(benchmark.RECORD.read_text())["cases"]
    assert set(cases["toy"]) == {*benchmark.TIMES, "memory_mib"}
    assert cases["mobilenet_v2"] == {"path": TIMED}
    benchmark.report()
    assert benchmark.PAGE.read_text().count("| mobilenet_v2 |") == 1


def test_a_program_that_is_not_there_is_said_before_anything_is_measured(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search_step.py", "measure", "--peers", "gone/bin/python"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "there is no program gone/bin/python" in capsys.readouterr().err
    assert not benchmark.RECORD.exists()


def test_a_peer_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    import search_step_peers

    (tmp_path / "plinio").mkdir()
    (tmp_path / "plinio" / "__init__.py").write_text("import a_digest_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "plinio"]:
        monkeypatch.delitem(sys.modules, name)
    assert search_step_peers.missing("plinio") == (
        "plinio cannot be imported: No module named 'a_digest_that_is_not_there'"
    )


def test_every_shape_of_the_toy_space_is_met_before_anything_is_timed(benchmark):
    """It has no widths to choose."""
    case = benchmark.CASES["toy"]
    supernet = case.supernet()
    assert set(supernet.supernet.space.node_sizes) == {4}
    benchmark.meet_all_shapes(supernet, case.images())
