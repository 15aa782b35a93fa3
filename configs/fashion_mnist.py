"""Fashion-MNIST, one kind of garment normal (0: T-shirt), all others anomalous.

    python train.py --config configs/fashion_mnist.py --config.data.dir=FOLDER_OF_IDX_FILES
    python score.py --config configs/fashion_mnist.py

Unlike on MNIST, brightness and contrast help to distinguish the classes, so they are kept. The bank holds random
images, because inversions lose the garments' texture (docs/detection.md). Training takes about 4 minutes on two CPU
cores.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, EncoderConfig, SearchConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist", normal="0"),
        encoder=EncoderConfig(feature_layer=0),
        bank=BankConfig(inverted=0),
        search=SearchConfig(feature_layer=0),
    )
