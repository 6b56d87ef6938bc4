"The commands, end to end; each way of starting them once in a process of its own."
import contextlib
import io
import json
import os
import subprocess
import sys

import pytest

from pgrpo.cli import main


def pgrpo(*argv, cwd):
    "The command in this process, which has imported already what it needs."
    before, out, err = os.getcwd(), io.StringIO(), io.StringIO()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(list(argv))
    finally: os.chdir(before)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def test_train_then_results_then_go_on(tmp_path):
    done = pgrpo("train", "smoke", "--arm", "erase", "--steps", "3", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0 and "held-out" in done.stdout and "run" in done.stdout, done.stderr
    files = {"config.json", "rows.jsonl", "rollouts.jsonl", "probes.jsonl", "modules", "summary.json", "ckpt", ".lock"}
    assert files == {p.name for p in (tmp_path / "run").iterdir()}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["arm"] == "erase" and {"pgrpo", "torch", "revision"} <= set(config["versions"])
    again = pgrpo("train", "smoke", "--arm", "erase", "--steps", "3", "--run-dir", "run", cwd=tmp_path)
    assert again.stdout == done.stdout[done.stdout.index("held-out"):]
    shown = pgrpo("results", "run", cwd=tmp_path)
    assert "erase, seed 0, 3 of 3 steps" in shown.stdout
    other = pgrpo("train", "smoke", "--arm", "route", "--run-dir", "run", cwd=tmp_path)
    assert other.returncode == 2 and "already holds another run" in other.stderr


def test_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pgrpo.train", "smoke", "--steps", "1", "--run-dir", "run"], cwd=tmp_path,
        capture_output=True, text=True,
    )
    assert done.returncode == 0 and (tmp_path / "run" / "summary.json").exists(), done.stderr


def test_compare_extract_pool(tmp_path):
    done = pgrpo(
        "compare", "smoke", "--arms", "none,erase random", "--steps", "2", "--quiet", "--out", "sweep", cwd=tmp_path
    )
    assert done.returncode == 0 and "erase random" in done.stdout, done.stderr
    assert {p.suffix for p in (tmp_path / "sweep").glob("compare.*")} == {".html", ".svg", ".png"}
    assert "erase random" in pgrpo("results", "sweep", "--markdown", cwd=tmp_path).stdout
    done = pgrpo("extract", "smoke", "--out", "v.safetensors", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "v.safetensors").exists(), done.stderr
    done = pgrpo("build-pool", "smoke", "--n", "2", "--out", "pool.jsonl.gz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = pgrpo(
        "train", "smoke", "--steps", "2", "--mix", "0.25", "--pool", "pool.jsonl.gz", "--run-dir", "mixed", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "mixed" / "rows.jsonl").read_text().splitlines()[0])
    assert row["hack_t"] == 1.0 and "cin_t" in row


@pytest.mark.parametrize(
    "argv",
    [
        ["trian"], ["train"], ["train", "dmeo"], ["train", "smoke", "--arm", "delete"],
        ["train", "smoke", "--modes", "sentinal"], ["train", "smoke", "--stepz", "3"],
        ["train", "smoke", "--steps", "three"], ["train", "smoke", "--mix", "0.5"],
        ["train", "smoke", "--device", "cuda:9"], ["train", "smoke", "--policy", "no/such/model"],
        ["train", "smoke", "--problems", "none.jsonl"], ["train", "smoke", "--pairs", "bad.jsonl"],
        ["train", "smoke", "--max-new-tokens", "500"], ["train", "smoke", "--mix", "0.5", "--pool", "bad.jsonl"],
        ["compare", "--arms", "earse"], ["results", "nowhere"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence(argv, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    monkeypatch.chdir(tmp_path)
    assert main([*argv, *(["--run-dir", "run"] if argv[0] == "train" and len(argv) > 1 else [])]) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pgrpo: ")]
    assert len(message) == 1 and len(message[0]) > 20
    if "bad.jsonl" in argv: assert "bad.jsonl" in message[0]


def test_check(tmp_path):
    done = subprocess.run([sys.executable, "-m", "pgrpo.cli", "check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "the matrix is diagonal" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "argv", [["demo"], ["smoke", "--arm", "route"], ["fast"], ["full", "--dtype", "float32"]], ids=" ".join
)
def test_a_dry_run_writes_nothing(argv, tmp_path):
    done = pgrpo("train", *argv, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "H200" in done.stdout and "nothing was loaded" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_bench_looks_at_its_places_first(tmp_path):
    (tmp_path / "file").write_text("")
    for flag in ("--json", "--figure"):
        done = pgrpo("bench", "--quick", flag, "file/x", cwd=tmp_path)
        assert (
            done.returncode == 2
            and done.stderr.startswith(f"pgrpo: {flag} file/x: its folder cannot be made (")
            and done.stderr.count("\n") == 1
        ), done.stderr
