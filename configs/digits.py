"""scikit-learn's 1,797 real 8x8 digits, enlarged to 16x16; nothing to download. One digit is normal.

For first tries and tests; training and scoring take about a minute on two CPU cores.

    python train.py --config configs/digits.py
    python score.py --config configs/digits.py
"""

from anogan_jax.config import Config, DataConfig, EncoderConfig, ModelConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="packaged", name="digits", normal="0", normalize_contrast=True, held_out=0.2),
        model=ModelConfig(image_size=16, width=16, latent_size=16),
        train=TrainConfig(steps=2_000, batch_size=32),
        encoder=EncoderConfig(feature_layer=0),
        search=SearchConfig(feature_layer=0),
    )
