"""Export a detector as one file: python -m anogan_jax.export --workdir runs/parts --output parts.anogan

anogan_jax/runtime.py loads the file and scores images. That module may be copied to another machine; it needs only JAX,
NumPy and flatbuffers. anogan-export is the same program as this one. Scoring settings are given as
--config.search.steps=64, --config.alpha=0.01 or --preset, and are fixed in the file.
"""

import logging
from pathlib import Path

from absl import flags

from anogan_jax import cli
from anogan_jax.config import PRESETS, with_preset, with_values
from anogan_jax.detector import load
from anogan_jax.errors import UserError

log = logging.getLogger("anogan_jax.export")
_OUTPUT = flags.DEFINE_string(  # score.py has flags of these names, and tests import both
    "output", None, "The file to write, which must not exist.", allow_override=True
)
_PRESET = flags.DEFINE_enum(
    "preset", None, list(PRESETS), "Named search settings; the presets are listed below.", allow_override=True
)


def main() -> None:
    """Export a detector."""
    if _OUTPUT.value is None:
        raise UserError("--output: give the file to write, such as --output=parts.anogan")
    workdir, output = cli.given_workdir(), Path(_OUTPUT.value)
    detector = load(workdir)
    cli.warn_of_differences(detector.config, workdir)
    config = with_preset(detector.config, _PRESET.value) if _PRESET.value else detector.config
    detector.with_config(with_values(config, cli.given_overrides())).export(output)
    log.info("%s: %.1f MB", output, output.stat().st_size / 1e6)


def run() -> None:
    """Run the program: anogan-export, and python -m anogan_jax.export."""
    cli.run(main)


if __name__ == "__main__":
    run()
