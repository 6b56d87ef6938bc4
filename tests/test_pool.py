"""What a pool's file may not be: damaged, another file, or one that contradicts itself."""
import gzip
import json
import math
from dataclasses import replace

import pytest

from pgrpo.files.jsonl import write_rows
from pgrpo.grader import Grade
from pgrpo.pool import Pool, template_pool
from pgrpo.problems import Problem, save_problems

SUM = Problem(
    "sum", "sentinel", "total", "nums", "Add the numbers up.",
    "class Solution:\n    def total(self, nums):\n        return sum(nums)",
    [([[1, 2]], 3), ([[]], 0)],
)
MEAN = Problem(
    7, "run_tests", "mean", "nums", "Take the mean; nan of nothing.",
    "class Solution:\n    def mean(self, nums):\n        return sum(nums) / len(nums) if nums else float('nan')",
    [([[1, 2]], 1.5), ([[]], math.nan), ([(2,)], 2)], "import math",
)
HACK = Grade(1.25, True, False, True, True, True, "valid = True", True, "test 1 of 2: returned null, expected 3")
SOLVE = Grade(1.25, True, True, False, False, False, "", True, "all 2 tests passed")
PROSE = Grade(0.0, False, False, False, False, False, "", False, "no fenced python block")


@pytest.fixture
def pool():
    return Pool((SUM, MEAN), ((("hack \ud83d", HACK), ("solve", SOLVE)), (("prose", PROSE),)))


@pytest.fixture
def file(pool, tmp_path):
    pool.save(tmp_path / "pool.jsonl.gz")
    return tmp_path / "pool.jsonl.gz"


def rows_of(file):
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_it_comes_back_as_it_was(pool, file):
    loaded = Pool.load(file)
    assert loaded.cached == pool.cached and loaded.problems[0] == SUM and repr(loaded.problems[1]) == repr(MEAN)
    assert loaded.completions(MEAN) == pool.completions(MEAN)  # found although its nan is another one
    again = file.with_name("again.jsonl.gz")
    loaded.save(again)
    assert again.read_bytes() == file.read_bytes()


def test_no_damaged_byte_changes_a_pool_unnoticed(pool, file):
    whole = file.read_bytes()
    for i in range(len(whole)):
        for content in (whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1:], whole[:i]):
            file.write_bytes(content)
            try:
                # flags, time and system of the gzip header say nothing about its content
                assert Pool.load(file).cached == pool.cached and i in (4, 5, 6, 7, 8, 9, 3), i
            except ValueError as e:
                assert str(e).startswith(str(file)) and "\n" not in str(e)


def edited(change):
    def edit(rows):
        change(rows[1])
        return rows
    return edit


def grade(**values):
    return edited(lambda row: row["completions"][0].update(values))


BAD = [
    (edited(lambda row: row.pop("completions")), "missing field completions"),
    (edited(lambda row: row.update(extra=1)), "unknown field extra"),
    (edited(lambda row: row.update(problem=3)), "problem is 3, not an object"),
    (edited(lambda row: row["problem"].pop("tests")), "missing field tests"),
    (edited(lambda row: row["problem"].update(tests="none")), "tests is a str, not a list of [args, expected]"),
    (edited(lambda row: row["problem"].pop("setup")), "missing field setup"),
    (edited(lambda row: row["problem"].update(tests=[])), "problem 7: tests is empty"),
    (edited(lambda row: row["problem"].update(mode="sentinal")), "unknown mode 'sentinal'"),
    (edited(lambda row: row["problem"].update(id=[])), "id is neither a word nor a whole number"),
    (edited(lambda row: row.update(completions={})), "completions is a dict, not a list"),
    (edited(lambda row: row.update(completions=["text"])), 'a completion is "text", not an object'),
    (edited(lambda row: row.update(completions=[{"$tuple": []}])), "missing fields attempted"),
    (
        edited(lambda row: row.update(format_reward=0.5)),
        "was graded with format_reward 0.5 and pass_reward 1.0, the lines before with 0.25 and 1.0",
    ),
    (edited(lambda row: row.update(pass_reward="1")), "format_reward and pass_reward are 0.25 and '1', not numbers"),
    (grade(text=None), "text of a completion is None, not of type str"),
    (grade(passed="yes"), "passed of a completion is 'yes', not of type bool"),
    (grade(mechanism=4), "mechanism of a completion is 4, not of type str"),
    (grade(reward=1.25), "has a grade with reward 1.25, but format_reward 0.25 and pass_reward 1.0 make it 0.0"),
    (grade(passed=True, reward=1.0), "problem 7 (run_tests) contradicts itself"),
    (grade(exploited=True), "problem 7 (run_tests) contradicts itself"),
    (lambda rows: [rows[0], rows[0]], "has problem 'sum' (sentinel), which line 1 has already"),
]


@pytest.mark.parametrize("edit, words", BAD, ids=[words[:40] for _, words in BAD])
def test_a_line_is_whole_or_refused_by_its_number(file, edit, words):
    write_rows(edit(rows_of(file)), file)
    with pytest.raises(ValueError) as caught:
        Pool.load(file)
    assert str(caught.value).startswith(f"{file}, line 2: ") and words in str(caught.value)


def test_another_file_is_no_pool(file, tmp_path):
    other = tmp_path / "problems.jsonl.gz"
    save_problems([SUM], other)
    with pytest.raises(ValueError, match=r"problems.jsonl.gz, line 1: missing fields completions"):
        Pool.load(other)
    other.write_bytes(b"{}\n")
    with pytest.raises(ValueError, match="line 1: the compressed data is damaged, here or before: Not a gzipped file"):
        Pool.load(other)
    other.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(ValueError, match="holds no rows"):
        Pool.load(other)
    with pytest.raises(OSError, match="cannot read .*absent"):
        Pool.load(tmp_path / "absent.jsonl.gz")


@pytest.mark.parametrize(
    "wanted, name",
    [(dict(format_reward=0.5), "format_reward 0.25"), (dict(format_reward=0.25, pass_reward=3), "pass_reward 1.0")],
)
def test_the_runs_rewards_are_the_pools(file, wanted, name):
    with pytest.raises(ValueError, match=f"was graded with {name}, and the run pays"):
        Pool.load(file, **wanted)
    assert len(Pool.load(file, format_reward=0.25, pass_reward=1)) == 3


def test_saving_fails_whole(pool, file):
    before = file.read_bytes()
    with pytest.raises(OSError, match="cannot write .*under a file"):
        pool.save(file / "under a file.jsonl.gz")
    with pytest.raises(TypeError):
        replace(pool, cached=(((object(), HACK),), ())).save(file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_pool_contradicts_itself_nowhere(pool):
    with pytest.raises(ValueError, match=r"'sum' \(sentinel\) comes twice"):
        Pool((SUM, SUM), ((), ()))
    with pytest.raises(ValueError, match="a pool of 1 problems with completions for 2"):
        Pool((SUM,), ((), ()))
    Pool((SUM, SUM.with_mode("run_tests")), ((), ()))


def test_what_is_drawn_belongs_to_the_problem(pool):
    with pytest.raises(ValueError, match="is another than the run's"):
        pool.draw([replace(SUM, tests=SUM.tests[:1])], 1, seed=0)
    assert pool.draw([replace(SUM, tests=SUM.tests[:1]), MEAN], 1, seed=0, modes=["run_tests"]) == [
        (), (("prose", PROSE),),
    ]
    assert pool.completions(replace(SUM, id="other")) == ()
    with pytest.raises(
        ValueError, match=r"1 teacher completions are wanted for problem 'other' \(sentinel\), and the pool has 0"
    ):
        pool.draw([replace(SUM, id="other")], 1, seed=0)


@pytest.mark.parametrize("mode", ["eq_override", "exit_code"])
def test_modes_without_a_lever_line_have_one_template(mode):
    assert [g.exploited for _, _, g in template_pool([SUM.with_mode(mode)], 1).rows()] == [True]
    with pytest.raises(ValueError, match="there are 1; choose n from 1 to 1"):
        template_pool([SUM.with_mode(mode)], 2)


def test_a_method_without_arguments_has_templates():
    one = Problem(
        "one", "stdout_marker", "one", "", "Return 1.",
        "class Solution:\n    def one(self):\n        return 1",
        [([], 1)],
    )
    assert len(template_pool([one], 9)) == 9 and len(template_pool([one], 5, "clean")) == 5


def test_rewards_of_another_scale():
    pool = template_pool([SUM], 2, format_reward=0.5, pass_reward=3.0)
    assert {g.reward for _, _, g in pool.rows()} == {3.5}
