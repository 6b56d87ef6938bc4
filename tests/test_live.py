"Watched training without a front end: lines instead of curves, and a clean stop."
import signal
import subprocess
import sys
import time

from pgrpo.train import RunFolder

CALL = """
import sys, threading
from pgrpo.config import preset
from pgrpo.live import train_live
done = train_live({"none": preset("smoke", steps=8, eval_problems=1)}, sys.argv[1])
print(done.stopped, len(done.rows["none"]), sorted(done.summaries), [t.name for t in threading.enumerate() if t.name != "tqdm_monitor"], "IPython" in sys.modules and bool(sys.modules["IPython"].get_ipython()))
"""


def script(folder): return subprocess.Popen([sys.executable, "-c", CALL, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_script_prints_is_stopped_and_goes_on(tmp_path):
    process, file = script(tmp_path), RunFolder(tmp_path / "none").rows_file
    while not file.exists() or file.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "none: step 1 of 8, reward" in out and "stopped; the same call goes on from here" in out
    said = out.splitlines()[-1].split(" ", 2)
    assert said[0] == "True" and 2 <= int(said[1]) < 8 and said[2] == "[] ['MainThread'] False"
    assert len(RunFolder(tmp_path / "none").rows()) == int(said[1])

    process = script(tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "False 8 ['none'] ['MainThread'] False"
    assert [r["step"] for r in RunFolder(tmp_path / "none").rows()] == list(range(8))
