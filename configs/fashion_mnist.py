"""Fashion-MNIST, one kind of garment normal (0: T-shirt), all others anomalous.

    python train.py --config configs/fashion_mnist.py --config.data.dir=FOLDER_OF_IDX_FILES
    python score.py --config configs/fashion_mnist.py

Unlike for MNIST, brightness and contrast tell garments apart, so they are left in.
"""

from anogan_jax.config import Config, DataConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist", normal=0),
        search=SearchConfig(feature_layer=0),
    )
