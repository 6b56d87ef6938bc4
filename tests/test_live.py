"Watched training without a front end: lines instead of curves, a clean stop, and nothing left behind."
import gc
import json
import signal
import threading
import time
import weakref

import pytest
from apart import Child

from pgrpo.train import RunFolder

CALL = """
import sys, threading
from pgrpo.config import preset
from pgrpo.widgets.live import train_live
done = train_live({"none": preset("smoke", steps=8, eval_problems=1)}, sys.argv[1])
threads = [t.name for t in threading.enumerate() if t.name != "tqdm_monitor"]
shell = "IPython" in sys.modules and bool(sys.modules["IPython"].get_ipython())
print(done.stopped, len(done.rows["none"]), sorted(done.summaries), threads, shell)
"""


def test_a_script_prints_is_stopped_and_goes_on(tmp_path):
    process, file = Child(CALL, tmp_path), RunFolder(tmp_path / "none").rows_file
    while not file.exists() or file.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "none: step 1 of 8, reward" in out and "stopped; the same call goes on from here" in out
    said = out.splitlines()[-1].split(" ", 2)
    assert said[0] == "True" and 2 <= int(said[1]) < 8 and said[2] == "[] ['MainThread'] False"
    assert len(RunFolder(tmp_path / "none").rows()) == int(said[1])

    process = Child(CALL, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "False 8 ['none'] ['MainThread'] False"
    assert [r["step"] for r in RunFolder(tmp_path / "none").rows()] == list(range(8))


def test_a_view_that_is_closed_is_gone():
    pytest.importorskip("anywidget")
    import comm

    from pgrpo.widgets.frame import alive
    from pgrpo.widgets.live import LiveView

    def left(): return alive(), set(comm.get_comm_manager().comms), set(threading.enumerate())
    gc.collect()
    before = left()
    for _ in range(3):
        view = LiveView(4)
        view.rows["none"] = [dict(step=i, hack_s=0.1 * i, solve_s=0.5, cin=0.2, cout_update=0.1) for i in range(4)]
        view.draw()
        refs = [weakref.ref(x) for x in (view, view.work, view.work.button, view._plot)]
        assert len(alive()) > len(before[0]) and len(set(comm.get_comm_manager().comms)) > len(before[1])
        view.close()
        del view
        gc.collect()
        assert [r() for r in refs] == [None] * 4 and left() == before


CELL = """
from pgrpo.config import preset
from pgrpo.widgets.live import train_live
done = train_live({"none": preset("smoke", steps=2, eval_problems=1)})
"""
COUNT = """
import comm, gc, json, threading
from pgrpo.adapter import Adapter
from pgrpo.widgets.frame import Work, alive
from pgrpo.widgets.live import LiveView
from pgrpo.train import Trainer
gc.collect()
everything = gc.get_objects()
objects = {kind.__name__: sum(type(o) is kind for o in everything) for kind in (LiveView, Work, Trainer, Adapter)}
del everything
threads = [t.name for t in threading.enumerate() if t.name.startswith("pgrpo")]
print(json.dumps(dict(objects, widgets=len(alive()), comms=len(comm.get_comm_manager().comms), threads=threads)))
"""


def test_a_cell_that_is_run_again_leaves_one_view():
    pytest.importorskip("anywidget")
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel()
    try:
        def cell(code):
            printed = []
            def hook(message):
                if message["content"].get("name") == "stdout": printed.append(message["content"]["text"])
            reply = client.execute_interactive(code, timeout=300, output_hook=hook)
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(printed)
        counts = []
        for _ in range(3):
            cell(CELL)
            counts.append(json.loads(cell(COUNT)))
        held = {k: counts[0][k] for k in ("LiveView", "Work", "Trainer", "Adapter", "threads")}
        assert held == dict(LiveView=1, Work=1, Trainer=0, Adapter=0, threads=[])
        assert counts[0]["widgets"] and counts[0]["comms"] and counts == counts[:1] * 3
        cell(CELL + "# another cell")
        assert json.loads(cell(COUNT))["LiveView"] == 2
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
