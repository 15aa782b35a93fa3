"""Train a detector on normal images: anogan-train --config mnist

--config takes the name of a packaged config, or the path of a file like those. python -m anogan_jax train and, in the
repository, python train.py are the same program.
"""

import logging
from pathlib import Path

from anogan_jax import cli
from anogan_jax import config as configs
from anogan_jax.config import Config
from anogan_jax.errors import UserError
from anogan_jax.fit import fit
from anogan_jax.loop import Stopped

log = logging.getLogger("anogan_jax.train")


def main() -> int | None:
    """Train, or resume; return the exit code."""
    workdir = cli.given_workdir()
    try:
        fit(config=cli.given_config() or _config_of(workdir), workdir=workdir)
    except Stopped as stop:
        log.warning("%s", stop)
        return 128 + stop.number
    return None


def _config_of(workdir: Path) -> Config:
    """Return the config of the run in a work directory, with the overrides; ``fit`` refuses those that change it."""
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir}: holds no run to resume; give a config too, such as --config=folder")
    return configs.with_values(configs.load(path), cli.given_overrides())


def run() -> None:
    """Run the program: anogan-train, python -m anogan_jax train, and train.py in the repository."""
    cli.run(main)
