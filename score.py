"""Score images with a trained detector: python score.py --workdir runs/mnist. The same program as anogan-score."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends quietly; cli.run handles it later

from anogan_jax.score import run

if __name__ == "__main__":
    run()
