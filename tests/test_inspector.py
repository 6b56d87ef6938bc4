"The inspector at the size of a 4B model, and what it leaves behind."
import gc
import threading
import weakref

import pytest
from large import RANKS, made_up

pytest.importorskip("anywidget")
from pgrpo.figures.plots import static
from pgrpo.grader import KINDS
from pgrpo.widgets.frame import alive
from pgrpo.widgets.inspector import Inspector
from pgrpo.widgets.maps import grid, module_figure, module_map


@pytest.fixture(scope="module")
def record(): return made_up()


def test_every_cell_of_252_is_its_module(record):
    seen = record.at(10)
    fig = module_map(seen, "cin", "sentinel")
    z = fig.data[0].z
    assert len(z) == 7 and all(len(row) == 36 for row in z)
    assert sorted(fig.data[0].y) == sorted(part.rpartition(".")[2] for part in RANKS)
    clean = 0
    for n in seen.modules:
        row, column = grid(seen.modules)[n]
        shown = z[fig.data[0].y.index(row)][fig.data[0].x.index(str(column))]
        if n not in record.V:
            assert shown is None
            continue
        g = seen.before[n]  # the whole; the cell shows one source, so only its definition can be asked for
        assert shown == pytest.approx(float(seen.values["cin"][3, seen.modules.index(n)]))
        whole = float((record.V[n].double() @ g.double()).relu().norm() / g.double().norm())
        assert float(seen.of("cin")[seen.modules.index(n)]) == pytest.approx(whole, abs=1e-5)
        clean += not seen.values["signed"][3, seen.modules.index(n)] > 0
        leans = float((record.V[n].double() @ g.double()).sum() / g.double().norm() / 5**0.5)
        assert float(seen.of("signed")[seen.modules.index(n)]) == pytest.approx(leans, abs=1e-5)
    assert 0 < clean < len(record.V) and len(fig.data[1].x) == clean and len(fig.data[2].x) == 1
    assert len(static(fig)) > 1000


def test_the_map_of_the_sign_has_zero_in_the_middle(record):
    heat = module_map(record.at(10), "signed").data[0]
    largest = float(record.at(10).of("signed").nan_to_num().abs().max())
    assert (heat.zmin, heat.zmax) == pytest.approx((-largest, largest))
    assert sum(v < 0 for row in heat.z for v in row if v is not None) > 50


def test_inside_of_a_module_in_double_precision(record):
    seen, n = record.at(0), "model.layers.17.mlp.down_proj"
    fig = module_figure(seen, n, record)
    panel = {(t.xaxis, t.name): t for t in fig.data}
    V, g = record.V[n].double(), seen.before[n].double()
    assert list(panel["x", "c"].y) == pytest.approx((V @ g).tolist(), rel=1e-3, abs=1e-3)
    assert list(panel["x4", "g'"].y) == pytest.approx((g - V.T @ (V @ g).relu()).tolist(), abs=1e-3)
    energy = panel["x3", "energy of V"]
    for i in (0, 50, -1):
        assert energy.y[i] == pytest.approx(float(V[:, :energy.x[i]].square().sum() / 5), abs=1e-5)
    assert energy.x[-1] == 2560 and len(energy.x) > 200
    bars = {x: y for kind in KINDS for x, y in zip(panel["x6", kind].x, panel["x6", kind].y)}
    assert len(bars) == 12 and sum(bars.values()) == pytest.approx(float((V @ g).relu().norm()), rel=1e-4)
    assert {a["row"] for a in seen.about if a["kind"] == "hack"} == set(panel["x6", "hack"].x)
    assert len(static(fig)) > 1000


def test_a_module_without_a_basis_says_so(record):
    n = record.at(0).modules[-1]
    titles = [a.text for a in module_figure(record.at(0), n, record).layout.annotations]
    assert sum("not known here" in t for t in titles) == 5 and "g (grey), and g' after the gate" in titles


def test_colours_end_at_the_same_value_at_every_step_and_arm(record):
    other = made_up(steps=(0,), arm="erase", seed=1)
    inspector = Inspector({"none": record, "erase": other}, quantity="removed")
    ends = set()
    for arm, step in (("none", 0), ("none", 10), ("erase", 0)):
        inspector.arm.value, inspector.step.value = arm, step
        ends.add(inspector._map.figure["data"][0]["zmax"])
    every = (r.at(s).values["removed"] for r, s in ((record, 0), (record, 10), (other, 0)))
    largest = max(float(values.nan_to_num().max()) for values in every)
    assert len(ends) == 1 and ends.pop() == pytest.approx(largest)
    inspector.close()


def test_opening_and_closing_leaves_nothing_behind(record):
    gc.collect()
    widgets, threads = len(alive()), threading.active_count()
    for _ in range(3):
        inspector = Inspector(record)
        inspector.module.value = inspector.module.options[7]
        gone = [weakref.ref(w) for w in (inspector, inspector._map, inspector._inside, inspector.step)]
        inspector.close()
        del inspector
        gc.collect()
        assert not any(ref() for ref in gone)
    assert len(alive()) == widgets and threading.active_count() == threads


def test_a_click_beside_every_cell_changes_nothing(record):
    inspector = Inspector(record)
    before = inspector.module.value
    inspector._map.clicked = dict(x="99", y="q_proj", trace=0, count=1)
    assert inspector.module.value == before
    inspector.close()
