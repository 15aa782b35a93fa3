"""The same training and the same scores on 1, 2, 4 and 8 devices, and in two processes."""

import csv
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image

from anogan_jax import config as configs
from anogan_jax import (
    describe_bank,
    from_bank,
    inference_weights,
    init_state,
    make_bank,
    make_encoder,
    make_encoder_scorer,
    make_gan,
    make_mesh,
    make_nearest_scorer,
    make_optimizer,
    make_search,
    make_search_scorer,
    make_train_step,
    score_images,
)
from anogan_jax.checkpoint import saved_steps
from anogan_jax.devices import whole
from anogan_jax.fit import fit, restored_or_new

COUNTS = (1, 2, 4, 8)


def main(path):
    """Runs with eight simulated devices: trains and scores on meshes of each size, and writes what came out."""
    compiled = Counter()

    class Count(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if message.startswith("Finished XLA compilation of"):
                compiled[message.split()[4]] += 1

    logging.getLogger("jax").addHandler(Count())
    jax.config.update("jax_log_compiles", True)
    gan, optimizer = make_gan(image_size=16, channels=1, width=8, latent_size=4), make_optimizer()
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(0, 0.5, (256, 16, 16, 1)).cumsum(1), -1, 1).astype(np.float32)
    results, first = {}, None
    for count in COUNTS:
        mesh = make_mesh(jax.devices()[:count])
        state = jax.device_put(init_state(gan, optimizer, jax.random.key(0), channels=1), whole(mesh))
        step = make_train_step(gan, optimizer, mesh=mesh)
        compiled.clear()
        for i in range(20):
            state, _ = step(state, images[32 * i % 256 :][:32])
        results[f"step compiled {count}"] = compiled["jit(step)"]
        state = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        results |= {f"state {count} {i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        first = first or inference_weights(gan, state._replace(key=jax.random.wrap_key_data(state.key)))
        bank = make_bank(gan, first, jax.random.key(1), 5000, mesh)
        scorer = make_search_scorer(make_search(gan), from_bank([bank], mesh=mesh), mesh)
        compiled.clear()
        for chosen in (images[:70], images[:3], images):
            scores = score_images(scorer, first, chosen)
        results[f"turn compiled {count}"] = compiled["jit(turn)"]
        described = describe_bank(bank.images[:5000], "structure", "pixels", mesh)
        likenesses = make_nearest_scorer([described], 8, "structure", "pixels", mesh)
        encoder = make_encoder(gan)
        variables = encoder.init(jax.random.key(2), images[:1], train=False)
        encoded = make_encoder_scorer(gan, encoder, variables, "pixels", mesh)
        for kind, scored in (
            ("search", scores),
            ("nearest", score_images(likenesses, first, images)),
            ("encoder", score_images(encoded, first, images)),
        ):
            results |= {f"{kind} {name} {count}": getattr(scored, name) for name in ("score", "generated")}
    np.savez(path, **results)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "results.npz"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.parametrize("count", COUNTS[1:])
def test_training_is_the_same_on_any_number_of_devices(results, count):
    """Statistics are of the whole batch, not of a device's part: the parameters differ by rounding alone."""
    leaves = [name for name in results if name.startswith("state 1 ")]
    assert len(leaves) > 40
    for name in leaves:
        np.testing.assert_allclose(results[name.replace("state 1", f"state {count}")], results[name], atol=1e-4)


@pytest.mark.parametrize("count", COUNTS[1:])
def test_scores_are_the_same_on_any_number_of_devices(results, count):
    """Bit for bit: each device runs the same program on its lanes."""
    for kind in ("search", "nearest", "encoder"):
        for name in ("score", "generated"):
            np.testing.assert_array_equal(results[f"{kind} {name} {count}"], results[f"{kind} {name} 1"])


@pytest.mark.parametrize("count", COUNTS)
def test_nothing_is_compiled_again_after_the_first_step(results, count):
    assert results[f"step compiled {count}"] == 1
    assert results[f"turn compiled {count}"] == 1


def start_two(script, *flags):
    """Starts a script in two processes that work as one; the second can write no file."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, str(ROOT / script), "--distributed", *map(str, flags)]
    unable = ["bash", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "-"]
    places = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            command if i == 0 else [*unable, *command],
            env={**os.environ, **places, "JAX_PROCESS_ID": str(i)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def end(processes):
    """Each one's exit code and what it said on stderr."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, errors) for process, errors in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "tiny"
    for code, errors in end(start_two("train.py", *TINY, "--config.train.steps=20", "--workdir", workdir)):
        assert code == 0, errors
    return workdir


def test_two_processes_train_as_one_does(trained_by_two, tmp_path):
    config = configs.load(trained_by_two / "config.json")
    one, two = fit(config, tmp_path), restored_or_new(trained_by_two, config, make_mesh())
    for mine, theirs in zip(jax.tree.leaves(one.generator), jax.tree.leaves(two.generator), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    for mine, theirs in zip(jax.tree.leaves(one.discriminator), jax.tree.leaves(two.discriminator), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert saved_steps(trained_by_two / "checkpoints") == [10, 15, 20]
    logged = [json.loads(line)["step"] for line in (trained_by_two / "metrics.jsonl").read_text().splitlines()]
    assert logged == [4, 5, 8, 10, 12, 15, 16, 20]
    assert len(list((trained_by_two / "samples").iterdir())) == 4


def test_two_processes_score_as_one_does(trained_run, tmp_path):
    """A folder with an unreadable file, whose images are shared between them: one CSV, in order."""
    folder = tmp_path / "folder"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{i}.png")
    (folder / "4.png").write_text("not a picture")
    flags = ["--workdir", trained_run, "--input", folder]
    alone = subprocess.run(
        [sys.executable, ROOT / "score.py", *flags, "--output", tmp_path / "one"], cwd=ROOT, capture_output=True
    )
    assert alone.returncode == 3
    two = end(start_two("score.py", *flags, "--output", tmp_path / "two"))
    assert [code for code, _ in two] == [3, 3], two
    with (tmp_path / "one" / "scores.csv").open() as one, (tmp_path / "two" / "scores.csv").open() as other:
        ours, theirs = list(csv.DictReader(one)), list(csv.DictReader(other))
    assert [row["name"] for row in ours] == [f"{i}.png" for i in range(9)]
    assert ours == theirs
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["images"] == 8


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    processes = start_two("train.py", *TINY, "--config.train.steps=100000", "--workdir", tmp_path)
    while not saved_steps(tmp_path / "checkpoints"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = end(processes)
    assert [code for code, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    assert f"saved at step {saved_steps(tmp_path / 'checkpoints')[-1]}; run again to go on" in ends[0][1]


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    command = [sys.executable, ROOT / "train.py", *TINY, "--workdir", tmp_path]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: train.batch_size=8: must be a multiple of the 3 devices" in done.stderr


def test_distributed_without_a_cluster_says_what_is_missing(tmp_path):
    command = [sys.executable, ROOT / "train.py", *TINY, "--workdir", tmp_path, "--distributed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: --distributed: " in done.stderr
    assert "JAX_COORDINATOR_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr


if __name__ == "__main__":
    main(Path(sys.argv[1]))
