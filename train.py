"""Train a detector on normal images: python train.py --config configs/mnist.py"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends quietly; cli.run handles it later

import logging

from absl import flags

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


if __name__ == "__main__":
    flags.adopt_module_key_flags(cli)
    cli.run(main)
