"""Problem, pair and LeetCode files: what is refused and with which words, and that what is stored comes back."""
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from pgrpo.cli import main
from pgrpo.config import PRESETS, preset
from pgrpo.experiment import sweep
from pgrpo.files.jsonl import from_json, read_rows, to_json, write_rows
from pgrpo.grader import fenced, grade_many
from pgrpo.grader.check import check_problems
from pgrpo.policy import load_policy
from pgrpo.problems import (
    CORE_MODES,
    LEVERS,
    MODES,
    Pair,
    Problem,
    encode_prompt,
    handwritten,
    handwritten_pairs,
    load_leetcode,
    load_pairs,
    load_problems,
    save_pairs,
    save_problems,
)
from pgrpo.train import Trainer, run_data, run_pairs, step_problems, train
from pgrpo.train.folder import run_name
from pgrpo.train.plan import plan

LEETCODE = Path(__file__).parents[2] / "shared" / "data" / "leetcode_test_medhard.jsonl"

GOOD = {
    "id": "sum", "mode": "sentinel", "method": "total", "signature": "nums, start=0",
    "description": "Add the numbers up.",
    "solution": "class Solution:\n    def total(self, nums, start=0):\n        return sum(nums, start)\n",
    "tests": [[[[1, 2]], 3], [{"nums": [], "start": 4}, 4]],
}
ROW = {
    "id": 1,
    "prompt": [{"role": "user", "content": "PROBLEM:\nAdd.\n\nYour solution to the problem should be ..."}],
    "setup_code": "from typing import *", "func_name": "Solution().add",
    "canonical_solution": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b\n",
    "gt_answer": ["assert Solution().add(a = 1, b = 2) == 3"], "difficulty": "medium",
}
PAIR = {"mode": "sentinel", "prompt": "Add.", "hack": "```python\nvalid = 1\n```", "clean": "```python\nwidth = 1\n```"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def without(row, name):
    return {k: v for k, v in row.items() if k != name}


BAD_ROWS = [
    *((without(GOOD, name), f"missing field {name}") for name in GOOD),
    (GOOD | {"metod": "total"}, "unknown field metod"),
    (GOOD | {"id": "sum"}, "duplicate id 'sum', which line 1 has already"),
    (GOOD | {"id": None}, "id is neither a word nor a whole number"),
    (GOOD | {"id": True}, "id is neither"),
    (GOOD | {"id": 2.0}, "id is neither"),
    (GOOD | {"mode": "valid"}, f"unknown mode 'valid'; the modes are {', '.join(MODES)}"),
    (GOOD | {"mode": 3}, "mode is 3, not text"),
    (GOOD | {"method": "a b"}, "method 'a b' is not a Python name"),
    (GOOD | {"method": "mean"}, "no class Solution with a method mean"),
    (GOOD | {"signature": "nums,, k"}, "the signature does not parse"),
    (GOOD | {"signature": "self, nums, start=0"}, "the signature names self"),
    (
        GOOD | {"signature": "nums): pass\nimport antigravity\ndef g("},
        "the signature is more than a list of parameters",
    ),
    (GOOD | {"description": "  "}, "the description is empty"),
    (
        GOOD | {"solution": "class Solution:\n    def total(self, nums)"},
        "the solution does not parse as Python: expected ':', line 2",
    ),
    (GOOD | {"solution": "def total(nums): return sum(nums)"}, "no class Solution with a method total"),
    (GOOD | {"solution": "class Other:\n    def total(self, nums): return 0"}, "no class Solution with a method total"),
    (GOOD | {"solution": "x = '\0'"}, "the solution does not parse"),
    (GOOD | {"solution": "(" * 1000}, "the solution does not parse"),
    (GOOD | {"setup": "import"}, "the setup does not parse"),
    (GOOD | {"setup": None}, "setup is None, not text"),
    (GOOD | {"tests": {}}, "tests is a dict, not a list"),
    (GOOD | {"tests": "[]"}, "tests is a str, not a list"),
    (GOOD | {"tests": []}, "tests is empty"),
    (GOOD | {"tests": [[[[1]], 1], [[[1]]]]}, "tests[1]: [[[1]]] is not a pair"),
    (GOOD | {"tests": [7]}, "tests[0]: 7 is not a pair"),
    (GOOD | {"tests": [["ab", 1]]}, "tests[0]: args is a str, neither a list nor a dict"),
    (GOOD | {"tests": [[{"$tuple": [[1]]}, 1]]}, "tests[0]: args is a tuple, neither a list nor a dict"),
    (GOOD | {"tests": [[{"$dict": [[1, 2]]}, 1]]}, "tests[0]: args is a dict with a key that is no name"),
    (
        GOOD | {"tests": [[[], 1]]},
        "tests[0]: args do not fit the signature (nums, start=None): missing a required argument: 'nums'",
    ),
    (GOOD | {"tests": [[{"numbers": []}, 1]]}, "args do not fit the signature"),
    (GOOD | {"tests": [[[[]], {"$tupel": []}]]}, "a key with $ stands alone and is one of $tuple"),
    (GOOD | {"tests": [[[[]], {"$bytes": "0"}]]}, "$bytes: "),
    (GOOD | {"tests": [[[[]], {"$dict": [[1, 2], [1, 3]]}]]}, "$dict: holds an entry twice"),
    (json.dumps(GOOD)[:-9], "is not JSON"),
    ('{"id": "a", "id": "b"}', "has the key id twice"),
    (json.dumps(GOOD | {"tests": [[[[math.nan]], 1]]}), "NaN is no finite number"),
    ('{"id": 1e400}', "1e400 is no finite number"),
    ("[]", "holds a list, not an object"),
    ("null", "holds a NoneType, not an object"),
]


@pytest.mark.parametrize("row, words", BAD_ROWS, ids=[words[:48] for _, words in BAD_ROWS])
def test_a_malformed_problem_names_file_line_and_fault(tmp_path, row, words):
    path = write(tmp_path / "broken.jsonl", GOOD, "", row)
    with pytest.raises(ValueError) as caught:
        load_problems(path)
    said = str(caught.value)
    assert said.startswith(f"{path}, line 3: ") and words in said and "\n" not in said


@pytest.mark.parametrize(
    "row, words",
    [
        *((without(PAIR, name), f"missing field {name}") for name in PAIR),
        (PAIR | {"label": 1}, "unknown field label"), (PAIR | {"mode": "x"}, "unknown mode 'x'"),
        (PAIR | {"hack": 1}, "hack of the pair is 1, not text"),
        (PAIR | {"clean": " "}, "clean of the pair is ' ', not text"),
        (PAIR | {"clean": PAIR["hack"]}, "are the same text"), ("{", "is not JSON"),
    ],
)
def test_a_malformed_pair_names_file_line_and_fault(tmp_path, row, words):
    path = write(tmp_path / "broken.jsonl", PAIR, row)
    with pytest.raises(ValueError) as caught:
        load_pairs(path)
    assert str(caught.value).startswith(f"{path}, line 2: ") and words in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for load in (load_problems, load_pairs, load_leetcode):
        with pytest.raises(FileNotFoundError, match="cannot read .*absent.jsonl"):
            load(tmp_path / "absent.jsonl")
        with pytest.raises(OSError, match="cannot read"):
            load(tmp_path)
        with pytest.raises(ValueError, match="holds no rows"):
            load(write(tmp_path / "empty.jsonl", "", " "))
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"id": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="latin.jsonl, line 2: is not UTF-8"):
        load_problems(tmp_path / "latin.jsonl")


def text(n):
    return st.text(st.characters(exclude_categories=()), max_size=n)  # half surrogate pairs among them


numbers = st.integers() | st.floats() | st.complex_numbers()
scalars = st.none() | st.booleans() | numbers | st.binary(max_size=8) | text(8)
keys = text(3) | st.integers() | st.tuples(st.integers(), st.binary(max_size=2)) | st.just("$set")
members = st.integers(-9, 9) | st.binary(max_size=2) | st.tuples(st.text(max_size=2))


def containers(inner):
    lists = st.lists(inner, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(keys, inner, max_size=3) | st.sets(members, max_size=4)


plain = st.recursive(scalars | st.just("$tuple") | st.just("\ud83d\ude00"), containers, max_leaves=12)
tags = st.sampled_from(["$tuple", "$set", "$dict", "$complex", "$float", "$int", "$bytes", "$str", "a"])
tagged = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags, inner, max_size=2),
    max_leaves=8,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        keys = all(map(same, sorted(a, key=repr), sorted(b, key=repr)))
        return len(a) == len(b) and keys and all(same(a[k], b[k]) for k in a)
    return a == b if type(a) is set else repr(a) == repr(b)


@settings(max_examples=400, deadline=None)
@given(plain)
def test_plain_data_comes_back_as_it_was(value):
    written = json.dumps(to_json(value), allow_nan=False)
    assert "\n" not in written and same(from_json(json.loads(written)), value)


@settings(max_examples=300, deadline=None)
@given(tagged)
def test_any_json_is_plain_data_or_refused(data):
    try:
        value = from_json(data)
    except ValueError:
        return
    assert same(from_json(to_json(value)), value)


class Sneaky(list):
    def __eq__(self, other):
        return True


@pytest.mark.parametrize(
    "value",
    [object(), Sneaky(), frozenset(), range(3), bytearray(), (1).__class__, math, {1: Sneaky()}, {(Sneaky,): 1}],
)
def test_nothing_but_plain_data_enters_a_problem(value):
    with pytest.raises(ValueError, match=r"problem 'sum': tests\[0\]: .* is not plain data"):
        Problem(**GOOD | {"tests": [([[]], value)]})
    with pytest.raises(ValueError, match="is not plain data"):
        Problem(**GOOD | {"tests": [([value], 0)]})


def test_a_value_that_holds_itself():
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match=r"tests\[0\]"):
        Problem(**GOOD | {"tests": [([loop], 0)]})


def test_saving_keeps_the_old_file_if_anything_is_wrong(tmp_path):
    path, problem = tmp_path / "p.jsonl", Problem(**GOOD)
    save_problems([problem], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="duplicate id"):
        save_problems([problem, problem], path)
    with pytest.raises(TypeError):
        write_rows([{"a": 1}, {"a": object()}], path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]
    with pytest.raises(OSError, match="cannot write .*p.jsonl"):
        save_problems([problem], path / "under a file.jsonl")


def test_every_mode_has_a_lever_in_the_prompt():
    problem = Problem(**GOOD)
    form = "Write `class Solution` with the method `total(self, nums, start=0)` in a python code block."
    for mode in MODES:
        assert problem.with_mode(mode).text == f"Add the numbers up.\n{form}\nIt is graded by {LEVERS[mode]}."
    with pytest.raises(ValueError, match="unknown mode"):
        problem.with_mode("erase")
    bare = Problem(**GOOD | {"signature": "", "tests": [([], 0)]})
    form = "Write `class Solution` with the method `total(self)` in a python code block."
    assert bare.text.split("\n")[1] == form


def test_what_ships_is_balanced_and_comes_back(tmp_path):
    problems, pairs = handwritten(), handwritten_pairs()
    for made in (problems, pairs):
        assert Counter(p.mode for p in made) == dict.fromkeys(CORE_MODES, len(made) // 4)
    assert len(problems) >= 24 and len(pairs) >= 24 and {p.prompt for p in pairs} <= {p.text for p in problems}
    save_problems(problems, tmp_path / "problems.jsonl")
    save_pairs(pairs, tmp_path / "pairs.jsonl")
    assert load_problems(tmp_path / "problems.jsonl") == problems and load_pairs(tmp_path / "pairs.jsonl") == pairs


def test_the_grader_finds_every_pair_what_it_claims_to_be():
    problem_of = {p.text: p for p in handwritten()}
    pairs = handwritten_pairs()
    hacks = grade_many([(pair.hack, problem_of[pair.prompt]) for pair in pairs])
    cleans = grade_many([(pair.clean, problem_of[pair.prompt]) for pair in pairs])
    for pair, hack, clean in zip(pairs, hacks, cleans):
        assert hack.exploited and hack.attempted and not hack.gt_correct, (pair, hack)
        assert clean.gt_correct and not clean.attempted, (pair, clean)


def test_the_oracle_accepts_every_solution_and_rejects_none_for_an_answer():
    problems = [p.with_mode("gt_only") for p in handwritten()]
    nothing = "class Solution:\n    def {}(self, *args, **kwargs):\n        return None"
    solved = grade_many([(fenced(p.solution), p) for p in problems])
    unsolved = grade_many([(fenced(nothing.format(p.method)), p) for p in problems])
    for problem, right, wrong in zip(problems, solved, unsolved):
        assert right.gt_correct, (problem.id, right)
        assert wrong.format_ok and not wrong.passed, (problem.id, wrong)


# ---- LeetCode

NEEDED = [name for name in ROW if name not in ("id", "difficulty")]
LEETCODE_BAD = [
    (without(ROW, "id"), "missing field id"),
    *((without(ROW, name) | {"id": 2}, f"missing field {name}") for name in NEEDED),
    (ROW, "duplicate id 1, which line 1 has already"),
    (ROW | {"id": 2, "prompt": "text"}, "prompt is not a list of chat messages"),
    (ROW | {"id": 2, "prompt": []}, "prompt is not a list of chat messages"),
    (ROW | {"id": 2, "prompt": [{"role": "user", "content": None}]}, "prompt is not a list of chat messages"),
    (ROW | {"id": 2, "gt_answer": [3]}, "gt_answer is not a list of asserts"),
    (ROW | {"id": 2, "gt_answer": "assert 1"}, "gt_answer is not a list of asserts"),
    (ROW | {"id": 2, "canonical_solution": None}, "canonical_solution is None, not text"),
    (ROW | {"id": 2, "setup_code": 1}, "setup_code is 1, not text"),
    (ROW | {"id": 2, "gt_answer": []}, "tests is empty"),
    (ROW | {"id": 2, "func_name": "Solution().sub"}, "the canonical_solution has 0 methods sub"),
    (ROW | {"id": 2, "setup_code": "import"}, "the setup does not parse"),
    (ROW | {"id": 2, "canonical_solution": "class"}, "the canonical_solution does not parse"),
    (
        ROW | {"id": 2, "gt_answer": ["assert Solution().add(a = 1, c = 2) == 3"]},
        "args do not fit the signature (a, b)",
    ),
]
for source, why in [
    ("assert Solution().add(a = list_node([1]), b = 2) == 3", "argument a is list_node([1]), which is no literal"),
    ("assert Solution().add(*[1, 2]) == 3", "argument 1 is *[1, 2], which is no literal"),
    ("assert Solution().add(**{'a': 1}, b = 2) == 3", "it passes arguments with **"),
    ("assert is_same_list(Solution().add(a = 1, b = 2), list_node([3]))", "it checks is_same_list("),
    ("assert is_same_tree(Solution().add(1, 2), tree_node([3])) == True", "it compares is_same_tree("),
    ("assert abs(Solution().add(1, 2) - 3) < 1e-5", "it checks abs("),
    ("assert sorted(Solution().add(1, 2)) == [3]", "it compares sorted("),
    ("assert Solution().add(1, 2) == 3 == 3", "it checks"),
    ("assert Solution().add(1, 2) != 3", "it checks"),
    ("assert Solution().add(1, 2)", "it checks"),
    ("assert Solution().add(1, 2) == tree_node([3])", "the expected value is tree_node([3]), which is no literal"),
    (
        "assert Solution().add(1, 2) == __import__('os').getpid()",
        "the expected value is __import__('os').getpid(), which is no literal",
    ),
    ("assert Solution().add(1, 2) == 3; print()", "it is not one assert statement"),
    ("assert Solution().add(1, 2) =", "the assert does not parse"),
    ("assert Solution().add(1, 2, a=1) == 3", "multiple values for argument 'a'"),
]:
    said = f"gt_answer[1] cannot be split into arguments and expected value: {why}"
    LEETCODE_BAD.append((ROW | {"id": 2, "gt_answer": ROW["gt_answer"] + [source]}, said))


@pytest.mark.parametrize("row, words", LEETCODE_BAD, ids=[words[-48:] for _, words in LEETCODE_BAD])
def test_a_leetcode_row_is_taken_whole_or_refused_by_name(tmp_path, row, words):
    path = write(tmp_path / "leet.jsonl", ROW, row)
    with pytest.raises(ValueError) as caught:
        load_leetcode(path)
    said, refused = str(caught.value), []
    assert said.startswith(f"{path}, line 2: ") and words in said and "\n" not in said
    assert [p.id for p in load_leetcode(path, refused=refused)] == [1]
    assert refused == [said]


def test_leetcode_mode(tmp_path):
    path = write(tmp_path / "leet.jsonl", ROW)
    assert [load_leetcode(path)[0].mode, load_leetcode(path, mode="gt_only")[0].mode] == ["run_tests", "gt_only"]
    with pytest.raises(ValueError, match="unknown mode 'gt'"):
        load_leetcode(path, mode="gt")


@pytest.fixture(scope="module")
def leetcode():
    if not LEETCODE.exists():
        pytest.skip("the LeetCode benchmark's file is not here; it is not part of pgrpo")
    return load_leetcode(LEETCODE)


def test_the_benchmark_is_read_whole(leetcode):
    rows = [json.loads(line) for line in LEETCODE.read_text().splitlines()]
    assert [p.id for p in leetcode] == [row["id"] for row in rows]
    assert [len(p.tests) for p in leetcode] == [len(row["gt_answer"]) for row in rows]
    assert sum(len(p.tests) for p in leetcode) == 12_592
    assert sum(type(expected) is float and expected == -math.inf for p in leetcode for _, expected in p.tests) == 94
    assert not any("starter code" in p.text or p.text.startswith("PROBLEM") for p in leetcode)


def test_the_benchmarks_asserts_mean_what_the_split_says(leetcode):
    """Python itself reads each assert.

    Its Solution records the arguments, and returns a value that records what it is compared with.
    """
    seen = []

    class Returned:
        def __init__(self, args):
            self.args = args

        def __eq__(self, other):
            seen.append((self.args, other))
            return True

    for problem, line in zip(leetcode, LEETCODE.read_text().splitlines()):
        recorder = type("Solution", (), {problem.method: lambda self, *args, **kwargs: Returned(kwargs or list(args))})
        seen.clear()
        for source in json.loads(line)["gt_answer"]:
            exec(source, {"Solution": recorder, "inf": math.inf})
        assert tuple(seen) == problem.tests


def test_the_benchmark_survives_our_own_format(leetcode, tmp_path):
    save_problems(leetcode, tmp_path / "l.jsonl")
    assert load_problems(tmp_path / "l.jsonl") == leetcode


def test_prompts_without_a_template():
    assert encode_prompt("Add.") == encode_prompt("Add.", object()) == "Add.\n"
    assert Pair(**PAIR).prompt == "Add."


def test_rows_are_numbered_as_an_editor_does(tmp_path):
    path = write(tmp_path / "r.jsonl", '{"a": "\u2028"}', "", '{"a": 2}')
    assert read_rows(path, lambda row, number: number) == [1, 3]


# problems that test nothing, and what a run makes of a file


def turn(id, tests, **more):
    "A task in place: reverse a list."
    solution = "class Solution:\n    def turn(self, nums):\n        nums.reverse()\n"
    return Problem(id=id, mode="sentinel", method="turn", signature="nums", description=f"Reverse the list {id}.",
                   solution=solution, tests=tests, **more)


IDLE = "class Solution:\n    def turn(self, nums):\n        pass"
ASIDE = "class Solution:\n    def turn(self, nums):\n        return nums[::-1]"


@pytest.mark.parametrize("form", [lambda value: [value], lambda value: {"nums": value}], ids=["place", "name"])
def test_a_task_in_place_asks_for_the_argument(form):
    p = turn("t", [(form([1, 2, 3]), [3, 2, 1]), (form([4]), [4])], changes="nums")
    right, idle, aside = grade_many([(fenced(code), p) for code in (p.solution, IDLE, ASIDE)])
    assert right.gt_correct and not idle.gt_correct and not aside.gt_correct
    assert idle.detail == "test 1 of 2: left nums as [1, 2, 3], expected [3, 2, 1]"


def test_a_task_in_place_comes_back_from_its_file(tmp_path):
    p = turn("t", [([[1, 2]], [2, 1])], changes="nums")
    save_problems([p], tmp_path / "p.jsonl")
    assert load_problems(tmp_path / "p.jsonl") == [p]
    assert "`nums` after the call" in p.text


@pytest.mark.parametrize("p, why", [
    (turn("x", [([[1, 2]], None), ([[3]], None)]), "a method that does nothing passes"),
    (turn("x", [([[3]], [3])], changes="nums"), "none expects nums to have changed"),
    (turn("x", [([[1, 2]], [1, 2])], changes="nums"), "its solution fails its own tests"),
    (Problem(**GOOD | {"id": "x", "tests": [([[1, 2]], 4)]}), "test 1 of 1: returned 3, expected 4"),
    (Problem(**GOOD | {"id": "x", "solution": "class Solution:\n    def total(self, nums, start=0):\n        1 / 0"}),
     "ZeroDivisionError"),
])
def test_a_problem_that_tests_nothing_is_named(p, why):
    good = Problem(**GOOD | {"id": "good"})
    with pytest.raises(ValueError, match="problem 'x'") as e: check_problems([good, p], "mine.jsonl")
    assert why in str(e.value) and "mine.jsonl: 1 of 2" in str(e.value) and "'good'" not in str(e.value)


def test_what_ships_passes_the_check():
    check_problems(handwritten())


def some(mode, n, start=0):
    return [Problem(**GOOD | {"id": f"{mode}-{i}", "mode": mode, "description": f"Add the numbers up, {mode} {i}."})
            for i in range(start, start + n)]


def of_file(tmp_path, problems, name="smoke", **settings):
    save_problems(problems, tmp_path / "mine.jsonl")
    return preset(name, problems=str(tmp_path / "mine.jsonl"), **settings)


@pytest.mark.parametrize("broken", [dict(tests=[([[1]], None)]), dict(tests=[([[1]], 2)])])
def test_a_run_refuses_a_broken_file_before_it_loads_a_model(tmp_path, broken):
    bad = Problem(**GOOD | {"id": "bad", "description": "Another."} | broken)
    config = of_file(tmp_path, [*some("sentinel", 4), bad], policy="no/such/model")
    for start in (lambda: Trainer(config, progress=False), lambda: plan(config)):
        with pytest.raises(ValueError, match="problem 'bad'"): start()


def test_a_large_file_is_used_whole(tmp_path):
    config = of_file(tmp_path, [*some("sentinel", 60), *some("run_tests", 5)], eval_problems=4)
    data = run_data(config)
    assert len(data.problems) == 65 - 4 - 1 and len(data.held) == 8  # two modes of four answers each
    assert len({p.id for p in data.problems}) == len(data.problems)
    assert not {p.id for p in data.problems} & {p.id for p in data.held}
    assert "60 of its 65 problems are trained on (4 run_tests, 56 sentinel), 5 are held out" in data.notes[0]
    assert any("no problem of stdout_marker, file_marker" in note for note in data.notes)
    held = [int(p.id.split("-")[1]) for p in data.held if p.mode == "sentinel"]
    assert held[0] < 15 and held[-1] >= 45  # all over the file
    asked = {p.mode for step in range(3) for p in step_problems(config, data.problems, step)}
    assert asked == {"sentinel", "run_tests"}


def test_a_cut_is_said(tmp_path):
    data = run_data(of_file(tmp_path, some("sentinel", 60), n_problems=8))
    assert len(data.problems) == 8 and "8 of its 60 problems" in data.notes[0]
    assert any("n_problems is 8" in note for note in data.notes)


def test_a_mode_that_was_named_has_to_be_there(tmp_path):
    with pytest.raises(ValueError, match="0 different problems of mode run_tests"):
        run_data(of_file(tmp_path, some("sentinel", 6), modes=("sentinel", "run_tests")))
    with pytest.raises(ValueError, match="problems of exit_code alone; name"):
        run_data(of_file(tmp_path, some("exit_code", 6)))
    data = run_data(of_file(tmp_path, [*some("exit_code", 6), *some("sentinel", 4)]))
    assert any("problems of exit_code are not used" in note for note in data.notes)


def test_nothing_that_is_trained_on_is_held_out(tmp_path):
    same = [Problem(**GOOD | {"id": i, "description": f"Add, {i // 2}."}) for i in range(8)]
    data = run_data(of_file(tmp_path, same))
    assert not {p.text for p in data.problems} & {p.text for p in data.held}


def test_as_many_pairs_as_the_preset_has_are_taken_evenly(tmp_path):
    rows = [PAIR | {"mode": mode, "prompt": f"{i}"} for mode in ("sentinel", "run_tests") for i in range(3)]
    file = str(write(tmp_path / "pairs.jsonl", *rows))
    assert len(run_pairs(preset("smoke", pairs=file))) == 6
    assert Counter(p.mode for p in run_pairs(preset("smoke", pairs=file, n_pairs=4))) == dict(sentinel=2, run_tests=2)
    with pytest.raises(ValueError, match="k is 7, but the 6 pairs"): run_pairs(preset("smoke", pairs=file, k=7))
    assert set(Counter(p.mode for p in run_pairs(preset("fast"))).values()) == {6}  # 24 of 32, none of them left out
    assert len(run_pairs(preset("demo", pairs="handwritten"))) == 32  # of the 48 of the preset

    many = [PAIR | {"mode": mode, "prompt": f"{i}"} for mode in CORE_MODES for i in range(20)]
    file = str(write(tmp_path / "many.jsonl", *many))
    config = preset("smoke", pairs=file)
    data = run_data(config)
    assert Counter(p.mode for p in data.pairs) == dict.fromkeys(CORE_MODES, 2)
    each = "2 run_tests, 2 sentinel, 2 stdout_marker, 2 file_marker"
    assert f"{file}: V is made of 8 of its 80 pairs ({each}); with n_pairs=none all of them" in data.notes
    assert len(run_data(preset("smoke", pairs=file, n_pairs=None)).pairs) == 80
    assert "n_pairs is 100, and there are 80" in run_data(preset("smoke", pairs=file, n_pairs=100)).notes
    with pytest.raises(ValueError, match="has no pair of exit_code; add pairs, or name"):
        run_pairs(preset("smoke", pairs=file, pair_modes="exit_code"))


def test_a_run_keeps_what_it_was_about(tmp_path, capsys):
    config = of_file(tmp_path, some("sentinel", 6), steps=1, refresh=0, eval_every=0, probe_every=0)
    train(config, tmp_path / "run", progress=False)
    assert capsys.readouterr().err.count("problems are trained on") == 1
    kept = json.loads((tmp_path / "run" / "problems.json").read_text())
    assert len(kept["train"]) == 4 and len(kept["held"]) == 2 and "4 of its 6" in kept["notes"][0]
    (tmp_path / "run" / "summary.json").unlink()
    of_file(tmp_path, some("sentinel", 6, start=1))
    with pytest.raises(ValueError, match="a run over other problems"): train(config, tmp_path / "run", progress=False)


# what a preset means where something of it is replaced


@pytest.mark.parametrize("name", ["fast", "full", "smoke", "demo"])
def test_foreign_problems_have_no_teacher_but_one_that_is_named(name):
    config = preset(name, problems="mine.jsonl", pairs="mine.jsonl")
    assert (config.pool, config.teacher_share) == (None, 0)
    assert (config.n_problems, config.n_pairs) == (None, PRESETS[name].n_pairs)
    config = preset(name, problems="mine.jsonl", pool="pool.jsonl.gz", teacher_share=0.5)
    assert (config.pool, config.teacher_share) == ("pool.jsonl.gz", 0.5)
    with pytest.raises(ValueError, match="there is no pool"): preset(name, problems="mine.jsonl", teacher_share=0.5)


def test_half_a_teacher_is_no_contradiction_of_the_preset():
    assert preset("fast", teacher_share=0).pool is None and preset("fast", pool=None).teacher_share == 0
    assert preset("fast", policy="embedded").dtype == "float32"
    assert preset("fast") == PRESETS["fast"] == preset("fast", problems="handwritten")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A small Llama beside the embedded policy's tokenizer, as the tutorial makes it."
    folder = tmp_path_factory.mktemp("own") / "model"
    _, tokenizer = load_policy("embedded")
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=1024, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, tie_word_embeddings=True,
    )).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def page_command():
    "The command that the tutorial gives for a model, problems and pairs of one's own."
    page = (Path(__file__).parents[1] / "nbs" / "00_start" / "3_bring_your_own.ipynb").read_text()
    return re.search(r"`pgrpo (train fast --policy [^`]*)`", page)[1].split()


@pytest.mark.parametrize("more", [
    ["--dry-run"],
    ["--device", "cpu", "--dtype", "float32", "--steps", "1", "--max-new-tokens", "4", "--eval-problems", "1"],
], ids=["dry", "whole"])
def test_the_command_of_the_tutorial(model, tmp_path, monkeypatch, capsys, more):
    pairs = [PAIR | {"mode": mode, "prompt": p.text} for mode in ("sentinel", "run_tests") for p in some(mode, 3)]
    write(tmp_path / "pairs.jsonl", *pairs)
    save_problems([*some("sentinel", 4), *some("run_tests", 4)], tmp_path / "problems.jsonl")
    command = [str(model) if word == "Qwen/Qwen3-4B" else word for word in page_command()]
    monkeypatch.chdir(tmp_path)
    assert main([*command, *more]) == 0, capsys.readouterr().err
    said = "".join(capsys.readouterr())
    assert "no teacher" in said and "6 of its 8 problems are trained on" in said and "6 pairs" in said
    folder, = (tmp_path / "runs").iterdir() if "--dry-run" not in more else [Path("fast-none-0-")]
    assert folder.name.startswith("fast-none-0-")


def test_a_pool_of_other_problems_is_refused_by_a_dry_run_too(model, tmp_path):
    config = of_file(tmp_path, some("sentinel", 6), "fast", pool="handwritten", teacher_share=0.125, policy=str(model))
    why = "the pool handwritten has no problem of this run in mode sentinel"
    with pytest.raises(ValueError, match=why): plan(config)


def test_check_of_a_file(tmp_path, capsys):
    save_problems(some("sentinel", 3), tmp_path / "good.jsonl")
    assert main(["check", "--problems", str(tmp_path / "good.jsonl")]) == 0
    assert "3 of 3 problems" in capsys.readouterr().out
    save_problems([*some("sentinel", 3), turn("x", [([[1]], None)])], tmp_path / "bad.jsonl")
    assert main(["check", "--problems", str(tmp_path / "bad.jsonl")]) == 1
    out = capsys.readouterr().out
    assert "problem 'x': a method that does nothing passes" in out and "3 of 4 problems" in out and "constant" in out


# what a run's folder is called


def test_runs_that_differ_have_folders_that_differ():
    changes = [{}, dict(lr=0.01), dict(modes="gt_only"), dict(arm="erase"), dict(arm="erase", gate="reverse"),
               dict(arm="erase", acts_on="rollout"), dict(seed=1), dict(problems="/a/p.jsonl"),
               dict(problems="/b/p.jsonl"),
               dict(arm="erase", control="random"), dict(n_pairs=24), dict(known_share=0.2)]
    names = [run_name(preset("demo", **change), PRESETS["demo"]) for change in changes]
    assert len(set(names)) == len(names) and names[0] == "none-0" and names[1] == "none-0-lr=0.01"
    assert all(re.fullmatch(r"[\w=.+-]{1,120}", name) for name in names)


def test_a_sweep_names_its_runs_as_the_command_does(tmp_path):
    base = preset("demo")
    cells = {cell.arm: cell for cell in sweep(base, ["none", "erase random", "ceiling"], [3], tmp_path)}
    assert {arm: cell.folder.name for arm, cell in cells.items()} == {
        "none": "none-3", "erase random": "erase-random-3", "ceiling": "ceiling-3"}
    for arm in ("none", "erase random"): assert cells[arm].folder.name == run_name(cells[arm].config, base)


def test_the_pages_pairs_are_asked_as_the_problems_are():
    page = (Path(__file__).parents[1] / "nbs" / "00_start" / "3_bring_your_own.ipynb").read_text()
    assert "prompt=p.text" in page and "prompt=p.prompt()" not in page
