"""A folder of normal images of any size; each is seen as a whole, resized to 64x64.

    python train.py --config configs/folder.py --config.data.dir=NORMAL_IMAGES --workdir runs/parts
    python score.py --workdir runs/parts --input NEW_IMAGES

Training on a thousand images of 28x28 pixels took 7 minutes on two CPU cores.

For small defects in large images, --config.patches.enabled uses patches at the images' own size, or at
--config.patches.scale times that size. For colour give --config.model.channels=3. Training images that may be anomalous
are left out of the references; if somebody has checked all of them, --config.bank.max_deviation=1e6 keeps the atypical
ones (docs/detection.md compares both).
Folders with defects, masks, classes or a CSV of labels are read too; the README has a table of layouts.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder"),
        model=ModelConfig(image_size=64, width=16, latent_size=64),
        train=TrainConfig(steps=5_000),
    )
