"""Scores images with a trained AnoGAN: python score.py --workdir runs/mnist --input photo.png"""

import hashlib
import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from anogan_jax import cli
from anogan_jax.baselines import baseline_scores
from anogan_jax.calibration import needed
from anogan_jax.config import differences
from anogan_jax.data import Images, OneClass, as_array, is_readable, load_one_class, read_ahead, read_input
from anogan_jax.devices import gather, is_first
from anogan_jax.errors import UserError
from anogan_jax.figures import HeatScale
from anogan_jax.journal import Journal
from anogan_jax.queries import score_queries
from anogan_jax.report import print_defects, print_table, record, write_comparison, write_report
from anogan_jax.run import METHODS, Run, held_out_scores, make_scorer, methods_of, open_run
from anogan_jax.version import __version__

log = logging.getLogger("anogan_jax.score")

_INPUT = flags.DEFINE_string(
    "input", None, "What to score: an image, a folder of images, an .npy or .npz. Default: the data set's test split."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. Default: the work directory; with --input, its folder inputs/<name>."
)
_ALPHA = flags.DEFINE_float(
    "alpha", None, "False-alarm rate at which an image is called an anomaly. Default: the config's.", 1e-6, 1.0
)
_METHOD = flags.DEFINE_enum(
    "method", "anogan", list(METHODS), "; ".join(f"{name}: {what}" for name, what in METHODS.items()) + "."
)
_HEATMAPS = flags.DEFINE_bool("heatmaps", False, "Also write heatmaps/<name>.png: each query under its anomaly map.")
_MAPS = flags.DEFINE_bool("maps", False, "Also write maps/<name>.npy: each anomaly map, of the query's size, float32.")
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Score the test split by every method and by kNN and PCA, and write just comparison.csv."
)


def main() -> int:
    """Scores or compares; returns the exit code."""
    workdir = cli.given_workdir()
    run = open_run(workdir)
    given = cli.given_config()
    for difference in differences(run.config, given) if given else []:
        log.warning("%s was trained with %s as --config says", workdir, difference)
    log.info("%s: the model of training step %d", workdir, run.step)
    return compare(run) if _COMPARE.value else score(run)


def score(run: Run) -> int:
    """Scores the queries and writes the report."""
    if _INPUT.value is None:
        data = load_one_class(run.config)
        queries, origin, warnings = test_split(data), data.origin, [data.warning] if data.warning else []
        both_kinds = queries.labels is not None and len(set(queries.labels.tolist())) > 1
        baselines = baselines_of(run, data) if both_kinds and is_first() else {}
        folder = Path(_OUTPUT.value or run.workdir)
    else:
        source = Path(_INPUT.value)
        queries, origin, warnings = read_input(source, run.config.model.channels), str(source), []
        baselines = {}
        folder = Path(_OUTPUT.value or run.workdir / "inputs" / source.stem)
    check_masks(queries)
    scorer = make_scorer(run, _METHOD.value)
    held_out = held_out_scores(run, scorer, _METHOD.value)
    alpha = run.config.alpha if _ALPHA.value is None else _ALPHA.value
    if (few := len(held_out.scores)) < needed(alpha):
        warnings.append(
            f"alpha={alpha:g}: too low for {few} held-out images, nothing can be called an anomaly; it takes "
            f"{needed(alpha)} (train with more images), or --alpha={math.ceil(1000 / (few + 1)) / 1000:g}"
        )
    for warning in warnings:
        log.warning("%s", warning)
    scale = HeatScale.of(held_out.highs, alpha)
    wanted = (_METHOD.value, _HEATMAPS.value, _MAPS.value)
    made_with = (__version__, run.config, run.step, wanted, scale, origin, list(queries.names))
    digest = hashlib.sha256(repr(made_with).encode()).hexdigest()
    journal = Journal(folder / "unfinished", digest) if is_first() else None
    done = int(gather(np.array(journal.count if journal else 0))[0])
    if done:
        log.info("going on: %d of %d were scored before", done, len(queries.names))
    results = score_queries(partial(scorer, run.weights), queries, run.config, "queries", first=done)
    if journal is None:
        return cli.EXIT_UNREADABLE if sum(scored.found is None for scored in results) else 0  # takes them all
    began = time.monotonic()
    heatmaps = folder / "heatmaps" if _HEATMAPS.value else None
    record(journal, results, queries, scale, heatmaps, folder / "maps" if _MAPS.value else None)
    seconds = time.monotonic() - began
    facts: dict[str, Any] = {
        "data": origin,
        "method": run.config.search.method if _METHOD.value == "anogan" else _METHOD.value,
        "checkpoint_step": run.step,
        "seconds": seconds,
        "images_per_second": (len(queries.names) - done) / seconds,
    }
    if warnings:
        facts["warning"] = "; ".join(warnings)
    summary = write_report(folder, journal, held_out.scores, alpha, scale, facts, baselines)
    journal.remove()
    defects = summary.pop("defects", {})
    print_table(f"Results in {folder}", {name.replace("_", " "): value for name, value in summary.items()})
    if defects:
        print_defects(defects)
    return cli.EXIT_UNREADABLE if summary["unreadable"] else 0


def compare(run: Run) -> int:
    """The paper's table, P_D, Yeh's variant and AnoGAN, with baselines on the same images."""
    data = load_one_class(run.config)
    if data.warning:
        log.warning("%s", data.warning)
    test = test_split(data)
    if test.labels is None or len(set(test.labels.tolist())) < 2:
        raise UserError(f"--compare: needs a test split with normal and anomalous images; {data.origin} has none")
    scores = {}
    for method, what in methods_of(run).items():
        scorer = make_scorer(run, method)
        results = score_queries(partial(scorer, run.weights), test, run.config, method)
        pairs = np.array([(scored.label, scored.found.score) for scored in results if scored.found])
        labels, scores[f"{method}: {what}"] = pairs.T
    if not is_first():
        return 0
    scores |= baselines_of(run, data)
    path = Path(_OUTPUT.value or run.workdir) / "comparison.csv"
    title = f"{len(labels)} test images of {data.origin}, in {path}"
    print_table(title, write_comparison(path, labels, scores))
    return 0


def baselines_of(run: Run, data: OneClass) -> dict[str, np.ndarray]:
    """Other detectors' scores of the test images, as the model sees those; none for images in patches."""
    if run.config.patches.enabled:
        return {}
    return baseline_scores(as_array(data.train, run.config), as_array(test_split(data), run.config))


def check_masks(queries: Images) -> None:
    """Raises UserError, before the search begins, if an image's mask is missing or no mask for it."""
    if queries.mask is None:
        return
    for i, mask in enumerate(read_ahead(queries.mask, range(len(queries.names)), ahead=16)):
        if isinstance(mask, UserError) and is_readable(queries, i):  # of one that is skipped, none is needed
            raise mask


def test_split(data: OneClass) -> Images:
    """The test split; UserError where there is none."""
    if data.test is None:
        raise UserError(f"give --input=WHAT_TO_SCORE; the training data, {data.origin}, has no test split")
    return data.test


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
