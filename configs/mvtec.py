"""Data in the layout of MVTec AD, one kind of object or texture: train/good, test/<defect>, ground_truth/<defect>.

    python train.py --config configs/mvtec.py --config.data.dir=FOLDER --workdir runs/NAME
    python score.py --workdir runs/NAME --heatmaps

Uses 64x64 patches at half the size, in colour, and a segmenter that learns from pseudo-anomalies. For grey images give
--config.model.channels=1; if each image has a brightness of its own, --config.data.normalize_contrast. The settings are
those of configs/magnetic_tile.py except: colour, no contrast normalisation, 5,000 instead of 3,000 steps of the GAN,
10,000 instead of 16,000 of the segmenter, its weight 0.3 instead of 0.1, and scores from the highest 0.01 % instead of
0.2 % of the map. Weight and share were chosen on held-out images with artificial damage (docs/detection.md). MVTec AD
itself was not measured.
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
        data=DataConfig(source="folder"),
        patches=PatchConfig(enabled=True, scale=0.5),
        model=ModelConfig(image_size=64, channels=3, width=16, latent_size=128),
        train=TrainConfig(steps=5_000, batch_size=32, flip=True),
        segmenter=SegmenterConfig(steps=10_000, weight=0.3),
        bank=BankConfig(size=8_192, max_deviation=1e6),
        search=SearchConfig(starts=1),
        pooling=PoolingConfig(share=0.0001),
    )
