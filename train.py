"""Train a detector on normal images: python train.py --config mnist. The same program as anogan-train."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends quietly; cli.run handles it later

from anogan_jax.train import run

if __name__ == "__main__":
    run()
