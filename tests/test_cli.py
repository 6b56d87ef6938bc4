"The commands, end to end; each way of starting them once in a process of its own."
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from apart import COMMAND, run

import pgrpo as package
from pgrpo.cli import main
from pgrpo.policy import policy_dir


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
        "train", "smoke", "--steps", "2", "--teacher-share", "0.25", "--pool", "pool.jsonl.gz", "--run-dir", "mixed",
        cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "mixed" / "rows.jsonl").read_text().splitlines()[0])
    assert row["hack_t"] == 1.0 and "cin_t" in row


@pytest.mark.parametrize(
    "argv",
    [
        ["trian"], ["train"], ["train", "dmeo"], ["train", "smoke", "--arm", "delete"],
        ["train", "smoke", "--modes", "sentinal"], ["train", "smoke", "--stepz", "3"],
        ["train", "smoke", "--steps", "three"], ["train", "smoke", "--teacher-share", "0.5"],
        ["train", "smoke", "--device", "cuda:9"], ["train", "smoke", "--policy", "no/such/model"],
        ["train", "smoke", "--problems", "none.jsonl"], ["train", "smoke", "--pairs", "bad.jsonl"],
        ["train", "smoke", "--max-new-tokens", "500"],
        ["train", "smoke", "--teacher-share", "0.5", "--pool", "bad.jsonl"],
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


def alone(*argv, cwd, code=COMMAND, **env):
    "The command, or other code, in a process of its own, whose environment has these variables; None: has not."
    full = {name: value for name, value in (os.environ | env).items() if value is not None}
    full["PYTHONPATH"] = env.get("PYTHONPATH", str(Path(package.__file__).parents[1]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)], cwd=cwd, env=full, capture_output=True
    )


ONE_STEP = ("train", "smoke", "--steps", "1", "--quiet", "--run-dir", "run")


@pytest.mark.parametrize(
    "env",
    [
        dict(PYTHONIOENCODING="ascii", PATH="", PGRPO_CACHE="c" * 300),
        dict(PYTHONIOENCODING="latin-1", HOME=None, XDG_CACHE_HOME=None, PGRPO_CACHE=None),
    ],
    ids=["no arrows, no git, no cache", "no arrows, no home"],
)
def test_a_run_needs_no_convenience(env, tmp_path):
    without_home = "import pwd, sys; pwd.getpwuid = lambda uid: {}[uid]; from pgrpo.cli import main; "
    done = alone(*ONE_STEP, cwd=tmp_path, code=without_home + "sys.exit(main(sys.argv[1:]))", **env)
    assert done.returncode == 0 and b"base hack v  base attempted v  base solve >" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["versions"]["torch"]


def test_a_revision_is_that_of_the_repository_that_tracks_the_package(tmp_path):
    def git(*words):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def found():
        code = "from pgrpo.files.machine import versions; print(versions()['revision'])"
        done = alone(cwd=tmp_path, code=code, PYTHONPATH=str(tmp_path / "env"))
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    shutil.copytree(Path(package.__file__).parent, tmp_path / "env" / "pgrpo")
    (tmp_path / "mine.txt").write_text("a repository of the user's own")
    git("init", "-q")
    git("add", "mine.txt")
    git("commit", "-q", "-m", "mine")
    assert found() == "None"
    git("add", "env")
    git("commit", "-q", "-m", "pgrpo as well")
    assert found() == git("rev-parse", "HEAD")
    with open(tmp_path / "env" / "pgrpo" / "config.py", "a") as file: file.write("# changed")
    assert found() == git("rev-parse", "HEAD") + "-dirty"


@pytest.mark.parametrize(
    "argv",
    [
        ["compare", "smoke", "--quiet", "--out", "file/x"], ["compare", "smoke", "--quiet", "--figure", "file/x"],
        ["extract", "smoke", "--out", "file/x"], ["build-pool", "smoke", "--out", "file/x"],
        ["build-policy", "--out", "file/x"], ["export", "run", "--out", "file/x"],
        ["train", "smoke", "--run-dir", "run", "--tensorboard", "file/x"],
    ],
    ids=" ".join,
)
def test_a_place_is_tried_before_the_work(argv, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("pgrpo.experiment.run_cells", "pgrpo.train.data.run_policy", "pgrpo.train.export.read_run",
                  "pgrpo.policy.embedded.train_policy", "pgrpo.pool.template_pool"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("it has begun to work"))
    done = pgrpo(*argv, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f" {argv[-2]} " in done.stderr, done.stderr


def test_a_policy_is_built_over_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = pgrpo("build-policy", "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and "holds files that are no embedded policy" in done.stderr
    assert (tmp_path / "notes.txt").exists()


def full(kilobytes):
    "What leaves a process a disk on which no file grows beyond so much."
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000 * kilobytes, hard))


@pytest.mark.parametrize("kilobytes, file", [(1, "the run folder run cannot be written"), (12, "run/ckpt/last.pt")])
def test_a_full_disk_is_one_sentence(kilobytes, file, tmp_path):
    little = ("--log-rollouts", "0", "--log-modules", "0", "--probe-every", "0")
    done = run(COMMAND, *ONE_STEP, *little, cwd=tmp_path, before=full(kilobytes))
    said = [line for line in done.stderr.splitlines() if line.startswith("pgrpo: ")]
    assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr
    assert file in said[0] and "File too large" in said[0]


def test_an_export_onto_a_full_disk_is_one_sentence(tmp_path):
    pgrpo(*ONE_STEP, cwd=tmp_path)
    for kilobytes in (1, 500):
        done = run(COMMAND, "export", "run", "--out", "model", cwd=tmp_path, before=full(kilobytes))
        said = done.stderr
        assert done.returncode == 2 and "pgrpo: the export cannot be written to model: " in said and "Trace" not in said
        assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_a_run_goes_on_from_another_folder(tmp_path):
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    away.mkdir()
    shutil.copytree(policy_dir(), here / "m")
    train = ("train", "smoke", "--steps", "2", "--quiet")
    done = pgrpo(*train, "--policy", "m", "--run-dir", "run", cwd=here)
    assert done.returncode == 0, done.stderr
    done = pgrpo(*train, "--policy", "../here/m", "--run-dir", "../here/run", cwd=away)
    assert done.returncode == 0 and "held-out" in done.stdout, done.stderr
    done = pgrpo("export", "../here/run", "--out", "model", cwd=away)
    assert done.returncode == 0 and (away / "model" / "config.json").exists(), done.stderr
    assert str(tmp_path) not in (away / "model" / "README.md").read_text()
    shutil.copytree(policy_dir(), away / "m")  # another one of the same name
    done = pgrpo(*train, "--policy", "m", "--run-dir", "../here/run", cwd=away)
    assert done.returncode == 2 and "already holds another run (policy is" in done.stderr


def test_what_a_file_of_results_is_not_is_one_sentence(tmp_path):
    (tmp_path / "run").mkdir()
    pgrpo("train", "smoke", "--steps", "1", "--quiet", "--run-dir", "newer", cwd=tmp_path)
    config = tmp_path / "newer" / "config.json"
    saved = json.loads(config.read_text())
    config.write_text(json.dumps(saved | dict(versions=dict(pgrpo="9.0"), config=saved["config"] | dict(arm="new"))))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "run" / "results.jsonl").write_text("\n")
    whole = dict(arm="none", seed=0, config={}, summary={})
    (tmp_path / "other.jsonl").write_text(json.dumps(whole) + "\n")
    for place, says in (
        ("newer", "the run was begun with 9.0) does not take: arm is 'new'"), ("empty.jsonl", "holds no rows"),
        ("run", "holds no rows"), ("other.jsonl", "line 1: the run none, seed 0 was not finished"),
    ):
        done = pgrpo("results", place, cwd=tmp_path)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr


WINDOWS = """
import os, sys
for name in ("fcntl", "resource"): sys.modules[name] = None
del os.fork, os.sched_getaffinity
"""


@pytest.mark.parametrize("module", ["sandbox.worker", "grader"])
def test_another_system_is_told_so_in_a_sentence(module, tmp_path):
    done = alone(cwd=tmp_path, code=f"{WINDOWS}\nimport pgrpo.{module}")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("ImportError: pgrpo runs code in forked processes") and "use Linux or macOS" in last


def test_another_system_has_help_and_a_sentence_per_command(tmp_path):
    command = f"{WINDOWS}\nfrom pgrpo.cli import main\nsys.exit(main(sys.argv[1:]))"
    assert alone("train", "--help", cwd=tmp_path, code=command).returncode == 0
    for argv in (["check"], list(ONE_STEP)):
        done = alone(*argv, cwd=tmp_path, code=command)
        said = done.stderr.decode()
        assert done.returncode == 2 and said.startswith("pgrpo: pgrpo runs code") and said.count("\n") == 1, said
    rooms = ", ".join(f"pgrpo.{room}" for room in ("projection", "figures.plots", "problems", "config"))
    done = alone(cwd=tmp_path, code=f"{WINDOWS}\nimport {rooms}")
    assert done.returncode == 0, done.stderr
