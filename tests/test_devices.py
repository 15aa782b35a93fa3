"""Training and scores are the same on 1, 2 and 8 devices, and in two processes."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, tiny_config, tiny_flags
from PIL import Image
from simulated_devices import COUNTS, FIELDS, SCORERS

from anogan_jax import fit, load, score
from anogan_jax.checkpoint import saved_steps


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "results.npz"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "tests/simulated_devices.py", path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.parametrize("count", COUNTS[1:])
def test_training_is_the_same_on_any_number_of_devices(results, count):
    """Up to rounding: batch statistics are of the whole batch, not of each device's part."""
    leaves = [name for name in results if name.startswith("state 1 ")]
    assert len(leaves) > 40
    for name in leaves:
        np.testing.assert_allclose(results[name.replace("state 1", f"state {count}")], results[name], atol=1e-4)


@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_the_same_on_any_number_of_devices(results, name):
    """Bit for bit on 2 and 8: each device runs the same program. Its gradient steps round differently on one device."""
    for field in FIELDS:
        one, two, eight = (results[f"{name} {count} {field}"] for count in COUNTS)
        np.testing.assert_array_equal(two, eight)
        if SCORERS[name][0]:  # steps
            np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize("count", COUNTS)
def test_each_program_is_compiled_once(results, count):
    for name in ("step", *SCORERS):
        assert results[f"compiled {name} {count}"] == 1


def test_batch_that_cannot_be_divided_is_refused(results):
    assert "train.batch_size=12: must be a multiple of the 8 devices" in str(results["error"])


def start_two(script, *flags):
    """Start a script in two processes that work together; the second one cannot write files."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, str(ROOT / script), "--distributed", *map(str, flags)]
    without_files = ["bash", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "-"]
    places = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            command if i == 0 else [*without_files, *command],
            env={**os.environ, **places, "JAX_PROCESS_ID": str(i)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def wait_for(processes):
    """Wait for each process; return its exit code and its messages."""
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, messages) for process, messages in zip(processes, errors, strict=True)]


def test_two_processes_train_as_one_does(tmp_path):
    """Two processes train the same detector as one, up to rounding. The first writes the same files, the second none.

    The encoder stands for all networks beside the GAN, which are trained by the same function.
    """
    fewer = {"segmenter.steps": 0, "rotation.steps": 0}
    for code, errors in wait_for(start_two("train.py", *tiny_flags(fewer), "--workdir", tmp_path / "run")):
        assert code == 0, errors
    one, two = fit(config=tiny_config(fewer), workdir=tmp_path / "one"), load(tmp_path / "run")
    for name in ("weights", "encoder"):
        trees = (jax.tree.leaves(getattr(detector.model, name)) for detector in (one, two))
        for mine, theirs in zip(*trees, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
    np.testing.assert_allclose(one.calibration.scores, two.calibration.scores, rtol=0.01)
    for mine, theirs in zip(one.held_out, two.held_out, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    ours, theirs = (
        [path.relative_to(top) for path in sorted(top.rglob("*")) if "default" not in path.parts]
        for top in (tmp_path / "one", tmp_path / "run")
    )
    assert ours == theirs  # but for the files inside checkpoints
    logs = [(top / "metrics.jsonl").read_text().splitlines() for top in (tmp_path / "one", tmp_path / "run")]
    assert [json.loads(line)["step"] for line in logs[0]] == [json.loads(line)["step"] for line in logs[1]]


def test_two_processes_score_as_one_does(tiny_run, tmp_path, run_main):
    """A folder with an unreadable file, divided between them: the same files as those of one process."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "4.png").write_text("not a picture")
    flags = ("--workdir", tiny_run.workdir, "--input", folder, "--output")
    assert run_main(score.main, *flags, tmp_path / "one").code == 3
    two = wait_for(start_two("score.py", *flags, tmp_path / "two"))
    assert [code for code, _ in two] == [3, 3], two
    ours, theirs = ((tmp_path / name / "scores.csv").read_text() for name in ("one", "two"))
    assert ours == theirs
    assert [row["name"] for row in csv.DictReader(ours.splitlines())] == [f"{i}.png" for i in range(9)]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["images"] == 8


def test_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    flags = (*tiny_flags({"train.steps": 100_000}), "--workdir", tmp_path)
    processes = start_two("train.py", *flags)
    while not saved_steps(tmp_path / "checkpoints"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = wait_for(processes)
    assert [code for code, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    assert f"saved at step {saved_steps(tmp_path / 'checkpoints')[-1]}; run the same command" in ends[0][1]
