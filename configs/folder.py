"""A folder of normal images of any size; each is looked at whole, resized to 64x64.

    python train.py --config configs/folder.py --config.data.dir=NORMAL_IMAGES --workdir runs/parts
    python score.py --workdir runs/parts --input NEW_IMAGES

A thousand images of 28x28 pixels took 7 minutes to train on, on two CPU cores.

Small defects in large images: --config.patches.enabled looks at patches at the images' own size, or at
--config.patches.scale times that. Colour: --config.model.channels=3. Images that may be anomalous are screened out of
the references; if somebody has looked through all of them, --config.bank.max_deviation=1e6 keeps the atypical ones
(docs/detection.md says what both are worth).
Folders with defects, masks, classes or a CSV of labels are read too: the README has a table of layouts.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder"),
        model=ModelConfig(image_size=64, width=16, latent_size=64),
        train=TrainConfig(steps=5_000),
    )
