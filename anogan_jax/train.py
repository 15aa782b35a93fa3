"""Train a detector on normal images: anogan-train --config mnist

--config takes the name of a packaged config, or the path of a file like those. python -m anogan_jax train and, in the
repository, python train.py are the same program.
"""

import logging

from anogan_jax import cli
from anogan_jax import config as configs
from anogan_jax.fit import fit
from anogan_jax.loop import Stopped

log = logging.getLogger("anogan_jax.train")


def main() -> int | None:
    """Train, or resume; return the exit code."""
    config = cli.given_config()
    workdir = cli.given_workdir()
    if config is None:
        config = configs.load(workdir / "config.json")
    try:
        fit(config=config, workdir=workdir)
    except Stopped as stop:
        log.warning("%s", stop)
        return 128 + stop.number
    return None


def run() -> None:
    """Run the program: anogan-train, python -m anogan_jax train, and train.py in the repository."""
    cli.run(main)
