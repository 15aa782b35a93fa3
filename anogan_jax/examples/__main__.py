"""Make the packaged example anew: python -m anogan_jax.examples; it takes about a minute on two CPU cores.

A detector of scikit-learn's 8x8 digits, trained on the zeros among the first 1,500 images; the others are new to it.
"""

import shutil
from pathlib import Path

import numpy as np

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, TrainConfig
from anogan_jax.fit import fit

KNOWN = 1_500  # number of the 1,797 images from which it is trained
FOLDER = Path(__file__).parent / "digits"
CONFIG = Config(
    data=DataConfig(source="arrays", normalize_contrast=True, held_out=0.25),
    model=ModelConfig(image_size=16, width=8, latent_size=16),
    train=TrainConfig(steps=2_000, batch_size=32),
    bank=BankConfig(inverted=256),
)


def main(folder: Path = FOLDER, config: Config = CONFIG) -> None:
    """Train, and replace the folder."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    detector = fit(images[:KNOWN][digits.target[:KNOWN] == 0], config)
    shutil.rmtree(folder, ignore_errors=True)
    detector.save(folder)


if __name__ == "__main__":
    main()
