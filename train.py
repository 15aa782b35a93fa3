"""Trains an AnoGAN on normal images: python train.py --config configs/mnist.py"""

import logging

from absl import flags

from anogan_jax import cli
from anogan_jax import config as configs
from anogan_jax.fit import Stopped, fit

log = logging.getLogger("anogan_jax.train")


def main() -> int | None:
    """Trains, or goes on training; returns the exit code."""
    config = cli.given_config()
    workdir = cli.given_workdir()
    if config is None:
        config = configs.load(workdir / "config.json")
    try:
        fit(config, workdir)
    except Stopped as stop:
        log.warning("%s", stop)
        return 128 + stop.number
    return None


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
