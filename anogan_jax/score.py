"""Score images with a trained detector: anogan-score --workdir runs/mnist --input photo.png

python -m anogan_jax score and, in the repository, python score.py are the same program.
Scoring settings are given as --config.search.steps=64, --config.alpha=0.01 or --preset; they apply only to this run.
"""

from pathlib import Path
from typing import Any

from absl import flags

from anogan_jax import cli
from anogan_jax.comparison import compare
from anogan_jax.config import PRESETS, with_preset, with_values
from anogan_jax.data import find_inputs, limit_pixels, read_inputs
from anogan_jax.detector import load
from anogan_jax.errors import UserError
from anogan_jax.evaluation import check_apart, folder_of_input, origin_of, score_test_split, score_to_folder

_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "Images to score: files, folders, patterns such as 'new/*.png', or one .npy or .npz. Several may follow the flag, "
    "or the flag be repeated. Default: the test split.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. Default: the work directory; with --input, its folder inputs/<name>."
)
_PRESET = flags.DEFINE_enum("preset", None, list(PRESETS), "Named search settings; the presets are listed below.")
_HEATMAPS = flags.DEFINE_bool("heatmaps", False, "Also write heatmaps/<name>.png: each image under its anomaly map.")
_MAPS = flags.DEFINE_bool(
    "maps",
    False,
    "Also write maps/<name>.npy: each anomaly map at the image's size, float32; the maps of a NIfTI, NRRD, MetaImage "
    "or TIFF file also as one file of its format and geometry.",
)
_EMBEDDING = flags.DEFINE_bool(
    "embedding",
    False,
    "Also draw embedding.png, and show it in the report: a t-SNE of the discriminator's features of queries, "
    "references, held-out images and generated images.",
)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Write comparison.csv: AUROC on the test split of each preset that can run, P_D, kNN and PCA."
)


def main() -> int:
    """Score or compare; return the exit code."""
    workdir = cli.given_workdir()
    detector = load(workdir)
    cli.warn_of_differences(detector.config, workdir)
    config = with_preset(detector.config, _PRESET.value) if _PRESET.value else detector.config
    detector = detector.with_config(with_values(config, cli.given_overrides()))
    output = Path(_OUTPUT.value) if _OUTPUT.value else workdir
    if _COMPARE.value and _INPUT.value:
        raise UserError("--compare: scores the test split; leave out --input")
    if _COMPARE.value:
        compare(detector, output / "comparison.csv")
        return 0
    wanted: dict[str, Any] = {"heatmaps": _HEATMAPS.value, "maps": _MAPS.value, "embedding": _EMBEDDING.value}
    if _INPUT.value is None:
        summary = score_test_split(detector, output, **wanted)
    else:
        sources = find_inputs(_INPUT.value)
        output = Path(_OUTPUT.value) if _OUTPUT.value else folder_of_input(workdir, *sources)
        check_apart(output, *sources)
        limit_pixels(detector.config.data.max_pixels)
        queries = read_inputs(sources, config.model.channels, config.data.window)
        summary = score_to_folder(detector, queries, output, origin_of(sources), **wanted)
    return cli.EXIT_UNREADABLE if summary["unreadable"] else 0


def run() -> None:
    """Run the program: anogan-score, python -m anogan_jax score, and score.py in the repository."""
    cli.run(main)
