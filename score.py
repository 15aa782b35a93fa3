"""Scores images with a trained AnoGAN: python score.py --workdir runs/mnist --input photo.png"""

import logging
from pathlib import Path

import numpy as np
from absl import flags

from anogan_jax import cli
from anogan_jax.baselines import baseline_scores
from anogan_jax.calibration import threshold
from anogan_jax.config import differences
from anogan_jax.data import ImageSet, OneClass, load_one_class, read_input
from anogan_jax.devices import is_first
from anogan_jax.errors import UserError
from anogan_jax.report import print_table, write_comparison, write_report
from anogan_jax.run import METHODS, Run, held_out_scores, make_scorer, open_run, score_queries

log = logging.getLogger("anogan_jax.score")

_INPUT = flags.DEFINE_string(
    "input", None, "What to score: an image, a folder of images, an .npy or .npz. Default: the data set's test split."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. Default: the work directory; with --input, its folder inputs/<name>."
)
_ALPHA = flags.DEFINE_float(
    "alpha", None, "False-alarm rate at which an image is called an anomaly. Default: the config's.", 0.0, 1.0
)
_METHOD = flags.DEFINE_enum(
    "method", "anogan", list(METHODS), "; ".join(f"{name}: {what}" for name, what in METHODS.items()) + "."
)
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
    size, channels = run.config.model.image_size, run.config.model.channels
    if _INPUT.value is None:
        data = load_one_class(run.config)
        test = test_split(data)
        queries, origin, warning = test.as_queries(), data.origin, data.warning
        baselines = baseline_scores(data.train.images, test.images) if is_first() else {}
        folder = Path(_OUTPUT.value or run.workdir)
    else:
        source = Path(_INPUT.value)
        queries, origin, warning = read_input(source, size, channels), str(source), ""
        baselines = {}
        folder = Path(_OUTPUT.value or run.workdir / "inputs" / source.stem)
    if warning:
        log.warning("%s", warning)
    scorer = make_scorer(run, _METHOD.value)
    held_out = held_out_scores(run, scorer, _METHOD.value)
    alpha = run.config.alpha if _ALPHA.value is None else _ALPHA.value
    if not np.isfinite(threshold(held_out, alpha)):
        log.warning("alpha=%g: too low for %d held-out images, nothing can be called an anomaly", alpha, len(held_out))
    results = score_queries(run, scorer, queries, "queries")
    if not is_first():
        return cli.EXIT_UNREADABLE if sum(scored.score is None for scored in results) else 0  # takes them all
    facts = {"data": origin, "warning": warning, "method": _METHOD.value, "checkpoint_step": run.step}
    summary = write_report(folder, results, held_out, alpha, run.config.data.normalize_contrast, facts, baselines)
    print_table(f"Results in {folder}", {name.replace("_", " "): value for name, value in summary.items()})
    return cli.EXIT_UNREADABLE if summary["unreadable"] else 0


def compare(run: Run) -> int:
    """The paper's table, P_D, Yeh's variant and AnoGAN, with baselines on the same images."""
    data = load_one_class(run.config)
    test = test_split(data)
    if test.labels is None or len(set(test.labels.tolist())) < 2:
        raise UserError(f"--compare: needs a test split with normal and anomalous images; {data.origin} has none")
    scores = {}
    for method, what in METHODS.items():
        scorer = make_scorer(run, method)
        results = score_queries(run, scorer, test.as_queries(), method)
        scores[f"{method}: {what}"] = np.array([scored.score.score for scored in results if scored.score])
    if not is_first():
        return 0
    scores |= baseline_scores(data.train.images, test.images)
    path = Path(_OUTPUT.value or run.workdir) / "comparison.csv"
    title = f"{len(test.images)} test images of {data.origin}, in {path}"
    print_table(title, write_comparison(path, test.labels, scores))
    return 0


def test_split(data: OneClass) -> ImageSet:
    """The test split; UserError where there is none."""
    if data.test is None:
        raise UserError(f"{data.origin}: has no test split; give --input=WHAT_TO_SCORE")
    return data.test


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
