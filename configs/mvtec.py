"""Data in the layout of MVTec AD, one kind of object or texture: train/good, test/<defect>, ground_truth/<defect>.

    python train.py --config configs/mvtec.py --config.data.dir=FOLDER --workdir runs/NAME
    python score.py --workdir runs/NAME --heatmaps

64x64 patches at a quarter of the size (MVTec AD's images have 700 to 1,024 pixels a side), in colour; for grey images
--config.model.channels=1. Meant for a GPU; its detection was not measured.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, PatchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder"),
        patches=PatchConfig(enabled=True, scale=0.25),
        model=ModelConfig(image_size=64, channels=3, latent_size=128),
        train=TrainConfig(steps=20_000, flip=True),
    )
