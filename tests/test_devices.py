"""Training and scores are the same on 1, 2 and 8 devices, and in two processes."""

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

ROOT = Path(__file__).parent.parent
COUNTS = (1, 2, 8)
SCORERS = {
    "search": dict(start="bank", starts=2, steps=3),
    "nearest": dict(start="bank", starts=4, steps=0),
    "encoder": dict(start="encoder", starts=1, steps=0),
    "random": dict(start="random", starts=1, steps=0),
}


class CompileCount(logging.Handler):
    """Counts compilations by the name of the compiled function."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Finished XLA compilation of"):
            self.counts[message.split()[4]] += 1


def main(path):
    """Train and score on meshes of each size, with eight simulated devices, and write the results."""
    from anogan_jax import (
        Config,
        Model,
        draw_bank,
        fit,
        inference_weights,
        init_state,
        make_encoder,
        make_features,
        make_gan,
        make_index,
        make_mesh,
        make_optimizer,
        make_scorer,
        make_search,
        make_train_step,
        score_images,
    )
    from anogan_jax.config import DataConfig, ModelConfig, TrainConfig
    from anogan_jax.devices import replicated
    from anogan_jax.errors import UserError

    compiled = CompileCount()
    logging.getLogger("jax").addHandler(compiled)
    logging.getLogger("jax").propagate = False
    jax.config.update("jax_log_compiles", True)
    gan, optimizer = make_gan(image_size=16, channels=1, width=4, latent_size=4), make_optimizer()
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(0, 0.5, (70, 16, 16, 1)).cumsum(1), -1, 1).astype(np.float32)
    features, encoder = make_features("structure", 16, 1), make_encoder(gan)
    results, model = {}, None
    for count in COUNTS:
        mesh = make_mesh(jax.devices()[:count])
        state = jax.device_put(init_state(gan, optimizer, jax.random.key(0), channels=1), replicated(mesh))
        step = make_train_step(gan, optimizer, mesh=mesh)
        for i in range(10):
            state, _ = step(state, images[16 * (i % 4) :][:16])
        results[f"compiled step {count}"] = compiled.counts.pop("jit(step)")
        key = jax.random.key_data(state.key)
        state = jax.device_get(state._replace(key=key))
        results |= {f"state {count} {i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        if model is None:
            weights = inference_weights(gan, state._replace(key=jax.random.wrap_key_data(key)))
            variables = encoder.init(jax.random.key(2), images[:1], train=False)
            bank = draw_bank(gan, weights, jax.random.key(1), 256)
            model = jax.device_get(Model(weights, variables, make_index(bank, features, features)))
        for name, settings in SCORERS.items():
            search = make_search(gan, features, steps=settings["steps"], learning_rate=0.1)
            scorer = make_scorer(gan, search, features, encoder=encoder, mesh=mesh, **settings)
            for chosen in (images[:3], images):
                scores = score_images(scorer, model, chosen)
            results |= {f"{name} {count} {field}": values for field, values in scores._asdict().items()}
            results[f"compiled {name} {count}"] = compiled.counts.pop("jit(score_block)")
    config = Config(
        data=DataConfig(source="arrays"), model=ModelConfig(image_size=16), train=TrainConfig(batch_size=12)
    )
    try:
        fit(images, config)
    except UserError as error:
        results["error"] = str(error)
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
    """Up to rounding: batch statistics are of the whole batch, not of each device's part."""
    leaves = [name for name in results if name.startswith("state 1 ")]
    assert len(leaves) > 40
    for name in leaves:
        np.testing.assert_allclose(results[name.replace("state 1", f"state {count}")], results[name], atol=1e-4)


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_the_same_on_any_number_of_devices(results, count, name):
    """Bit for bit: each device runs the same program on its images."""
    for field in ("score", "residual", "discrimination", "reconstruction", "anomaly_map", "z"):
        np.testing.assert_array_equal(results[f"{name} {count} {field}"], results[f"{name} 1 {field}"])


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


def test_two_processes_train_as_one_does(tiny_run, tmp_path):
    """Up to rounding; the second process writes nothing, and the first writes what a single one does."""
    from conftest import tiny_flags

    from anogan_jax import load

    for code, errors in wait_for(start_two("train.py", *tiny_flags(), "--workdir", tmp_path / "run")):
        assert code == 0, errors
    one, two = tiny_run.detector, load(tmp_path / "run")
    for mine, theirs in zip(jax.tree.leaves(one.model), jax.tree.leaves(two.model), strict=True):
        if mine.shape == theirs.shape:  # of the bank an outlier more or less may be left out
            np.testing.assert_allclose(mine, theirs, atol=1e-3)
    np.testing.assert_allclose(one.calibration.scores, two.calibration.scores, rtol=0.01)
    for mine, theirs in zip(one.held_out, two.held_out, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    names = [sorted(p.relative_to(top) for p in top.rglob("*")) for top in (tiny_run.workdir, tmp_path / "run")]
    assert names[0] == names[1]
    lines = [(top / "metrics.jsonl").read_text().splitlines() for top in (tiny_run.workdir, tmp_path / "run")]
    assert [json.loads(line)["step"] for line in lines[0]] == [json.loads(line)["step"] for line in lines[1]]


def test_two_processes_score_as_one_does(tiny_run, tmp_path):
    """A folder with an unreadable file, divided between them: the same files as those of one process."""
    from PIL import Image

    from anogan_jax.evaluation import score_input

    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "4.png").write_text("not a picture")
    score_input(tiny_run.detector, folder, tmp_path / "one")
    flags = ("--workdir", tiny_run.workdir, "--input", folder, "--output", tmp_path / "two")
    two = wait_for(start_two("score.py", *flags))
    assert [code for code, _ in two] == [3, 3], two
    ours, theirs = ((tmp_path / name / "scores.csv").read_text() for name in ("one", "two"))
    assert ours == theirs
    assert [row["name"] for row in csv.DictReader(ours.splitlines())] == [f"{i}.png" for i in range(9)]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["images"] == 8


def test_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    from conftest import tiny_flags

    from anogan_jax.checkpoint import saved_steps

    processes = start_two("train.py", *tiny_flags({"train.steps": 100_000}), "--workdir", tmp_path)
    while not saved_steps(tmp_path / "checkpoints"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = wait_for(processes)
    assert [code for code, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    assert f"saved at step {saved_steps(tmp_path / 'checkpoints')[-1]}; run the same command" in ends[0][1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
