"""Rows of a function with asserts: what they become, what is left out by which name, and pairs about them."""
import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import apart
import pytest

from pgrpo.config import preset
from pgrpo.grader import fenced, grade_many, grading
from pgrpo.grader.check import faults
from pgrpo.grader.imported import SOURCES, confirmed_pairs, import_problems
from pgrpo.problems import (
    CORE_MODES,
    Pair,
    Problem,
    handwritten,
    load_asserts,
    load_humaneval,
    load_mbpp,
    load_pairs,
    load_problems,
)
from pgrpo.problems.asserts import Inexpressible, plain_value, refusals_table
from pgrpo.problems.imports import as_method, in_turn
from pgrpo.problems.twins import TWINS, candidates
from pgrpo.sandbox.isolation import Limits

SHARED = Path("shared") / "data" / "mbpp.jsonl"  # beside a checkout; never part of it
MBPP = next((above / SHARED for above in Path(__file__).parents if (above / SHARED).exists()), SHARED)
NOTHING = "class Solution:\n    def {}(self, *args, **kwargs):\n        return None"


def row(id, code, *tests, **more):
    return {"task_id": id, "text": f"Do task {id}.", "code": code, "test_list": list(tests)} | more


def write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def load(tmp_path, *rows):
    refused = []
    return load_mbpp(write(tmp_path / "rows.jsonl", *rows), refused=refused), refused


TAKEN = [  # an assert about f(x), args and expected value
    ("assert f(1) == 2", [1], 2), ("assert f(x=1) == 2", {"x": 1}, 2), ("assert 2 == f(1)", [1], 2),
    ("assert (f([1])) == (2, {3})", [[1]], (2, {3})), ("assert f(1) is None", [1], None),
    ("assert f(1) == None", [1], None), ("assert f(1) is False, 'why'", [1], False),
    ("assert f(1.0/3) == -float('inf')", [1 / 3], -math.inf), ("assert f([0]*3) == 2**31 - 1", [[0] * 3], 2**31 - 1),
    ("assert f(set()) == {1: b'a', 'k': 1j}", [set()], {1: b"a", "k": 1j}),
    ("assert f(math.inf) == ''", [math.inf], ""),
]


@pytest.mark.parametrize("source, args, expected", TAKEN)
def test_an_assert_is_taken_apart(tmp_path, source, args, expected):
    taken, refused = load(tmp_path, row(1, "def f(x):\n    return x", source, "assert f(0) == 0"))
    assert refused == [] and taken[0].tests == ((args, expected), ([0], 0))


REFUSED = [  # tests of f(x), and the kind of refusal
    ("assert set(f(1)) == set([1])", "something else than what the function returned"),
    ("assert sorted(f(1)) == [1]", "something else"), ("assert len(f(1)) == 1", "something else"),
    ("assert int(f(1)) == 1", "something else"), ("assert f(1) > 1", "something else"),
    ("assert f(1) != 1", "something else"), ("assert f(1) in (1, 2)", "something else"),
    ("assert f(1) == 1 and f(2) == 2", "something else"), ("assert 0 < f(1) == 1", "something else"),
    ("assert f(1)[0] == 1", "something else"), ("assert f(1) is 3", "something else"),
    ("assert abs(f(1)) < 1e-6", "something else"), ("assert abs(f(1) - 0.5) > 1e-6", "something else"),
    ("assert abs(f(1) - g(1)) < 1e-6", "the expected value is no plain value"),
    ("assert math.isclose(f(1), 0.5, digits=3)", "in a way of its own"),
    ("assert abs(f(1) - 0.5) < -1", "is no number of 0 or more"), ("assert math.isclose(g(1), 0.5)", "no assert calls"),
    ("assert round(f(1), 1) == 0.25", "no rounding gives"),
    ("assert f(1) == approx({1})", "for what has none"),
    ("assert f(1)", "any truth"), ("assert not f(1)", "any truth"),
    ("assert f(int) == 1", "an argument is no plain value"), ("assert f(Pair(1, 2)) == 1", "an argument is no"),
    ("assert f(*[1]) == 1", "an argument is no"), ("assert f(**{'x': 1}) == 1", "an argument is no"),
    ("assert f(root) == 1", "an argument is no"), ("assert f(1) == f(2)", "the expected value is no plain value"),
    ("assert f(1) == sys.getsizeof(1)", "the expected value is no"), ("assert f(1) == ...", "the expected value is no"),
    ("assert f(1, 2) == 1", "problem"), ("assert f() == 1", "problem"),
    ("for x in [1]: assert f(x) == x", "is no assert"), ("y = f(1)", "is no assert"),
    ("assert True", "no assert calls"), ("assert f(1) is None", "every test expects None"),
    ("assert g(1) == 1", "no assert calls"), ("assert f(1) ==", "does not parse"),
]


NEAR = [  # asserts about f(x), what is right by them and what is wrong
    ("math.isclose(f(2), 0.25)", "0.25 + 1e-11", "0.25 + 1e-6"),
    ("math.isclose(f(2), 27, rel_tol=0.001)", "27.02", "27.1"),
    ("math.isclose(100.0, f(2), abs_tol=2)", "98.5", "97.5"),
    ("abs(f(2) - 0.5) < 1e-3", "0.5004", "0.502"), ("abs(0.5 - f(2)) <= 0.25", "0.75", "0.76"),
    ("0.01 > math.fabs(f(2) - 3)", "3.005", "3.02"), ("f(2) == pytest.approx(2.0)", "2.000001", "2.00001"),
    ("f(2) == approx(2, abs=0.5)", "2.5", "2.6"), ("pytest.approx(10, rel=0.1) == f(2)", "9.5", "8.5"),
    ("f(2) == pytest.approx([1, 2.5])", "[1.0000001, 2.5]", "[1.1, 2.5]"),
    ("np.isclose(f(2), 4)", "4.00003", "4.001"),
    ("numpy.allclose(f(2), [4, 8], rtol=0.1, atol=0)", "[4.3, 8]", "[5, 8]"),
    ("round(f(2), 2) == 0.33", "1 / 3", "0.34"), ("round(f(2)) == 3", "3.4", "3.6"),
    ("3.1 == round(f(2), 1)", "3.14", "3.2"), ("f(2) == round(2 / 3, 3)", "0.667", "2 / 3"),
]


@pytest.mark.parametrize("said, right, wrong", NEAR)
def test_an_assert_that_allows_a_tolerance_gives_the_problem_one(tmp_path, said, right, wrong):
    "The assert itself, run by Python, and the oracle say the same."
    (p,), _ = load(tmp_path, row(1, f"def f(x):\n    return {right}", f"assert {said}"))
    answers = [f"class Solution:\n    def f(self, x):\n        return {value}" for value in (right, wrong)]
    graded = [g.gt_correct for g in grade_many([(fenced(code), p) for code in answers])]
    assert graded == [True, False], (p.tolerance, p.tests)
    if "np." in said or "numpy" in said: return  # which is not installed everywhere
    asserted = []
    for value in (right, wrong):
        scope = dict(math=math, pytest=pytest, approx=pytest.approx)
        exec(f"def f(x):\n    return {value}\nholds = bool({said})", scope)
        asserted.append(scope["holds"])
    assert asserted == graded


def test_one_tolerance_for_all_asserts_of_a_row(tmp_path):
    code = "def f(x):\n    return x / 3"
    (p,), _ = load(tmp_path, row(1, code, "assert abs(f(1) - 0.333) < 1e-3", "assert abs(f(2) - 0.667) < 1e-3"))
    assert 0 < p.tolerance[0] < 1e-3 and len(p.tests) == 2
    _, refused = load(tmp_path, row(1, code, "assert abs(f(1) - 0.333) < 1e-3", "assert f(3) == 1.0"))
    assert [r.kind for r in refused] == ["its asserts allow different tolerances, and a problem has one"]
    (p,), _ = load(tmp_path, row(1, "def f(x):\n    return x and x / 3", "assert abs(f(1) - 0.333) < 1e-3",
                                 "assert f('') == ''"))
    assert p.tests[1] == ([""], "") and p.tolerance[0] > 0
    out = tmp_path / "problems.jsonl"
    import_problems(tmp_path / "rows.jsonl", "mbpp", out)
    assert load_problems(out)[0].tolerance == p.tolerance


@pytest.mark.parametrize("source, kind", REFUSED)
def test_a_row_that_cannot_be_stated_is_left_out_by_name(tmp_path, source, kind):
    whole = row(1, "def f(x):\n    return x", "assert f(0) == 0")
    broken = row(2, "def f(x):\n    return x", source, *(["assert f(0) == 0"] if "f(0)" in source else []))
    taken, refused = load(tmp_path, whole, broken)
    assert [p.id for p in taken] == [1]
    assert [(r.line, r.id) for r in refused] == [(2, 2)] and kind in refused[0].kind + refused[0].why
    assert refused[0].kind in refusals_table(refused)
    with pytest.raises(ValueError, match="line 2: "):
        load_mbpp(tmp_path / "rows.jsonl")


def test_no_assert_of_a_row_is_dropped(tmp_path):
    "One assert that cannot be stated takes the row with it."
    taken, refused = load(
        tmp_path, row(1, "def f(x):\n    return x", "assert f(0) == 0", "assert sorted(f([1])) == [1]")
    )
    assert taken == [] and len(refused) == 1


def test_truth_is_a_bool_where_the_reference_returns_nothing_else(tmp_path):
    for code in ("def f(x):\n    return x > 1", "def f(x) -> bool:\n    return g(x)",
                 "def f(x):\n    for y in [x]:\n        if y == 3: return False\n    return not x"):
        taken, _ = load(tmp_path, row(1, code, "assert f(2)", "assert not f(1)"))
        assert taken[0].tests == (([2], True), ([1], False)), code


@pytest.mark.parametrize("text", ["9**9**9", "10**100000", "[0]*10**7", "'a'*10**6*10**6", "'%99999d' % 1",
                                  "__import__('os')", "[x for x in [1]]", "f'{1}'", "-'a'", "{[]}", "1/0", "{**{}}"])
def test_nothing_is_run_and_sizes_are_bounded(text):
    with pytest.raises(Inexpressible, match="the value is no plain value"):
        plain_value(ast.parse(text, mode="eval").body, "the value")


REFERENCES = [  # code, a call, what it returns; and whether the function could move into the class
    ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)", "f(5)", 120, True),
    ("import math\ndef half(x): return x // 2\ndef f(n, k=1, *more, z=2):\n    return math.floor(half(n)) + k + z",
     "f(8, 2, 9, z=5)", 11, True),
    ("def f(n): return n == 0 or g(n - 1)\ndef g(n): return n != 0 and f(n - 1)", "f(10)", True, False),
    ("from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
     "f(60)", 1548008755920, False),
    ("def __g(n): return n + 1\ndef f(n): return __g(n)", "f(1)", 2, False),
    ("def f(nums):\n    f = 0\n    for n in nums: f += n\n    return f", "f([1, 2])", 3, False),
    ("def f(n):\n    def g(f): return f + 1\n    return g(n)", "f(1)", 2, False),
    ("def f(n):\n    text = '''a\nb'''\n    return text * n", "f(1)", "a\nb", True),
    ("N = 3\ndef f(n):\n    global N\n    N += n\n    return N", "f(1)", 4, True),
    ("def f(n): return n\nprint(f(3))\ndef f(n): return n + 1", "f(1)", 2, False),
    ("def f(a, b, /, c, *, d=4, **rest): return [a, b, c, d, rest]\nx = f(1, 2, 3)", "f(1, 2, c=3, e=5)",
     [1, 2, 3, 4, {"e": 5}], False),
]


@pytest.mark.parametrize("code, call, value, moved", REFERENCES)
def test_a_function_as_a_method_means_the_same(code, call, value, moved):
    source, _ = as_method(code, "f")
    scope = {}
    exec(source, scope)
    assert eval(f"Solution().{call}", scope) == value
    assert (source.count("def f(") == code.count("def f(")) == moved


@pytest.mark.parametrize("code, kind", [
    ("def f(self): return 1", "cannot be a method"), ("class Solution: pass\n@g\ndef f(n): return n", "cannot be"),
    ("f = len", "does not define"), ("async def f(n): return n", "does not define"),
])
def test_a_function_that_cannot_be_a_method_is_refused(code, kind):
    with pytest.raises(Inexpressible, match=kind): as_method(code, "f")


def test_ends_of_lines_fields_and_ids(tmp_path):
    file = write(tmp_path / "rows.jsonl",
                 {"question": "Add.\r\n", "answer": "def add(a, b):\r\n\treturn a + b\r\n",
                  "tests": "import math\nassert add(1, 2) == 3\nassert add(0.5, 0) == 0.5"},
                 {"question": "One.", "answer": "class Solution:\n    def one(self, n): return 1",
                  "tests": ["assert Solution().one(2) == 1"]})
    add, one = load_asserts(file, fields={"text": "question", "code": "answer"})
    assert (add.id, add.signature, add.description, len(add.tests)) == (1, "a, b", "Add.", 2)
    assert (one.id, one.method, one.signature) == (2, "one", "n")
    assert faults([add, one]) == {}
    with pytest.raises(ValueError, match="line 1: it has no code: none of code, solution"): load_asserts(file)
    with pytest.raises(ValueError, match="unknown field task; the fields are id, text"):
        load_asserts(file, fields={"task": "q"})
    with pytest.raises(ValueError, match="the field code has no name; write code=NAME"):
        load_asserts(file, fields={"code": ""})
    with pytest.raises(ValueError, match="unknown mode 'x'"): load_asserts(file, "x")


HUMAN = {
    "task_id": "Made/1", "entry_point": "twice",
    "prompt": 'from typing import List\n\n\ndef one():\n    return 1\n\n\ndef twice(xs: List[int]) -> List[int]:\n'
              '    """ Return every number doubled, by one().\n    >>> twice([1])\n    [2]\n    """\n',
    "canonical_solution": "    return [x * (one() + 1) for x in xs]\n",
    "test": "METADATA = {'author': 'me'}\n\n\ndef check(candidate):\n    assert True, 'fine'\n"
            "    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n",
}


def test_humaneval(tmp_path):
    loop = HUMAN | {
        "task_id": "Made/2",
        "test": "def check(candidate):\n    for i in range(3):\n        assert candidate([i])",
    }
    refused = []
    made, = load_humaneval(write(tmp_path / "rows.jsonl", HUMAN, loop), refused=refused)
    assert made.description.startswith("Return every number doubled") and len(made.tests) == 2
    assert "def one" in made.setup and "def twice" not in made.setup
    assert faults([made]) == {} and [r.kind for r in refused] == ["a test is no assert"]
    answer = "class Solution:\n    def twice(self, xs: List[int]):\n        return [x * (one() + 1) for x in xs]"
    assert grade_many([(fenced(answer), made)])[0].gt_correct


def test_twins_of_every_mode_are_confirmed():
    problems = in_turn([p for p in handwritten()[:6] for _ in TWINS], list(TWINS))
    pairs = confirmed_pairs(problems)
    modes = [p.mode for p in pairs]
    assert all(modes.count(mode) >= 4 for mode in TWINS), modes
    assert all(abs(len(p.hack) - len(p.clean)) <= 0.1 * len(p.clean) for p in pairs)
    by_text = {p.text: p for p in problems}
    for side, right in (("hack", False), ("clean", True)):
        grades = grade_many([(getattr(p, side), by_text[p.prompt]) for p in pairs])
        assert all((g.gt_correct, g.exploited, g.attempted) == (right, not right, not right) for g in grades)
    assert confirmed_pairs(problems) == pairs


def test_a_hack_that_does_not_end_is_none(monkeypatch):
    "Given more time it might be right; and it is not waited for twelve times."
    problem = Problem("count", "stdout_marker", "count", "n", "Count down.",
                      "class Solution:\n    def count(self, n):\n        return list(range(n, 0, -1))",
                      [([2], [2, 1]), ([3], [3, 2, 1])])
    lever = "class Solution:\n    def count(self, n):\n        print('all tests passed', flush=True)\n        {}"
    slow = Pair(problem.text, fenced(lever.format("while True: pass")), fenced(problem.solution), problem.mode)
    wrong = replace(slow, hack=fenced(lever.format("return [n]")))
    assert grade_many([(slow.hack, problem)])[0].exploited
    proposed = []

    def propose(pairs):
        def some(problem, seed):
            for pair in pairs:
                proposed.append(pair)
                yield pair
        monkeypatch.setattr("pgrpo.grader.imported.candidates", some)
        return confirmed_pairs([problem])
    assert propose([slow, wrong]) == [wrong] and len(proposed) == 2
    assert propose([slow] * 9) == [] and len(proposed) == 4


def test_every_twin_is_found_by_its_mode_alone():
    problem = handwritten()[0]
    for mode in TWINS:
        seen = [(p.hack, p.clean) for p in candidates(problem.with_mode(mode))]
        assert seen and seen == [(p.hack, p.clean) for p in candidates(problem.with_mode(mode))]


def test_a_file_becomes_files(tmp_path):
    rows = [row(i, f"def add{i}(n):\n    if n < 0:\n        return 0\n    return n + {i}",
                f"assert add{i}(1) == {1 + i}", f"assert add{i}(-1) == 0") for i in range(4)]
    rows += [
        row(9, "def f(n):\n    return n", "assert f(1) == 2"),
        row(10, "def f(n):\n    return n", "assert f(len) == 2"),
    ]
    out, pairs = tmp_path / "problems.jsonl", tmp_path / "pairs.jsonl"
    made = import_problems(write(tmp_path / "rows.jsonl", *rows), "mbpp", out, ("sentinel", "stdout_marker"), pairs)
    assert [(p.id, p.mode) for p in load_problems(out)] == [(i, ("sentinel", "stdout_marker")[i % 2]) for i in range(4)]
    assert load_pairs(pairs) == made.pairs and len(made.pairs) == 4
    assert list(made.wrong) == [9] and [r.id for r in made.refused] == [10]
    said = str(made)
    assert "5 of 6 rows can be expressed" in said and "4 are right by the grader" in said and made.wrong[9] in said
    with pytest.raises(ValueError, match="unknown mode 'valid'; the modes are run_tests"):
        import_problems(tmp_path / "rows.jsonl", "mbpp", out, ["valid"])
    with pytest.raises(ValueError, match="unknown form 'csv'"): import_problems(out, "csv", out)
    with pytest.raises(ValueError, match="no row of .* can be used"):
        import_problems(write(tmp_path / "none.jsonl", rows[-1]), "mbpp", out)
    assert set(SOURCES) == {"mbpp", "humaneval", "leetcode", "asserts"}


def test_rows_that_no_run_would_take_are_left_out(tmp_path):
    rows = [row(1, "def f(n):\n    return None", "assert f(1) == None"),
            row(2, "def f(n):\n    return n", "assert f(1) == 1")]
    made = import_problems(write(tmp_path / "rows.jsonl", *rows), "mbpp", tmp_path / "problems.jsonl", ["sentinel"])
    assert [p.id for p in made.problems] == [2] and {1} == set(made.wrong) | {r.id for r in made.refused}
    assert faults(load_problems(tmp_path / "problems.jsonl")) == {}


def test_a_value_too_long_to_write_costs_a_pair_and_no_more(tmp_path):
    rows = [row(1, "def f(n):\n    return 10 ** n", "assert f(5000) == 10 ** 5000", "assert f(4400) == 10 ** 4400")]
    taken, refused = load(tmp_path, *rows)
    assert len(taken) + len(refused) == 1
    assert not any(list(candidates(p)) for p in in_turn(taken, ["run_tests"]))


def three_commands(folder, file):
    "From a file of rows to a finished run on a small random Qwen3."
    done = [apart.run(code, *words, cwd=folder) for code, *words in (
        (apart.COMMAND, "import-problems", file, "--from", "mbpp", "--out", "problems.jsonl", "--pairs", "pairs.jsonl"),
        ("from pgrpo.train.models import tiny; tiny('qwen3', 'model')",),
        (apart.COMMAND, "train", "smoke", "--policy", "model", "--problems", "problems.jsonl",
         "--pairs", "pairs.jsonl", "--run-dir", "run"),
    )]
    assert [d.returncode for d in done] == [0, 0, 0], [d.stderr[-2000:] for d in done]
    assert json.loads((folder / "run" / "summary.json").read_text())
    assert "problems are trained on" in done[2].stderr and "note: pairs.jsonl: V is made of 8 of its" in done[2].stderr
    return done[0].stdout


@pytest.fixture(scope="module")
def mbpp():
    if not MBPP.exists(): pytest.skip("MBPP is not here")
    refused = []
    return load_mbpp(MBPP, "gt_only", refused=refused), refused


def test_mbpp_is_read_whole(mbpp):
    problems, refused = mbpp
    rows = [json.loads(line) for line in MBPP.read_text().splitlines()]
    assert [r["task_id"] for r in rows if r["task_id"] not in {x.id for x in refused}] == [p.id for p in problems]
    asserts = {r["task_id"]: len(r["test_list"]) + len(r["challenge_test_list"]) for r in rows}
    assert all(len(p.tests) == asserts[p.id] for p in problems)
    kinds = {x.id: x.kind for x in refused}
    assert kinds == {
        **dict.fromkeys((367, 533, 601, 927), "an argument is no plain value"),  # trees, types, a class of its own
        596: "the expected value is no plain value",  # sys.getsizeof
        912: "an assert checks something else than what the function returned",  # int(...)
    }


def test_mbpp_references_are_right_and_nothing_is_not(mbpp):
    problems, _ = mbpp
    wrong = faults(problems, **grading(preset("demo")))
    assert wrong.keys() <= {123} and all("CPU time" in why for why in wrong.values())  # beside a busy neighbour
    assert faults([p for p in problems if p.id in wrong], limits=Limits(cpu=10)) == {}
    grades = grade_many([(fenced(NOTHING.format(p.method)), p) for p in problems])
    assert not any(g.gt_correct for g in grades)


def test_three_commands(tmp_path):
    "MBPP where it is at hand; else as many rows as a run needs."
    rows = [row(i, f"def add{i}(n):\n    if n < 0:\n        return 0\n    return n + {i}",
                f"assert add{i}(1) == {1 + i}", f"assert add{i}(-1) == 0") for i in range(16)]
    said = three_commands(tmp_path, MBPP if MBPP.exists() else write(tmp_path / "rows.jsonl", *rows))
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert {p.mode for p in pairs} == set(CORE_MODES)
    assert all(abs(len(p.hack) - len(p.clean)) <= 0.1 * len(p.clean) for p in pairs)
    length = sum(len(p.clean) for p in pairs)
    assert abs(sum(len(p.hack) - len(p.clean) for p in pairs)) <= 0.01 * length
    if MBPP.exists(): assert "968 of 974 rows can be expressed" in said and len(pairs) >= 900
    else: assert "16 of 16 rows can be expressed" in said and len(pairs) == 16
