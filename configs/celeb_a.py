"""CelebA (Liu et al. 2015), faces at 64x64 pixels in colour: the middle 140x140 pixels of the aligned photographs.

    pip install -r requirements-tfds.txt
    python train.py --config configs/celeb_a.py --workdir runs/faces
    python score.py --workdir runs/faces --input photographs
    python train.py --config configs/celeb_a.py --config.data.attribute=Bald --config.data.normal=0 --workdir runs/bald
    python score.py --workdir runs/bald

TensorFlow Datasets downloads it. The first two commands treat all faces as normal. With data.attribute, the faces that
have the attribute (data.normal=1) or lack it (data.normal=0) are normal; in the test split the other faces are
anomalous. Photographs to score are cropped in the same way, so they must be aligned like CelebA's, with 178x218 pixels.
Meant for a GPU; detection was not measured.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="tfds", name="celeb_a", crop=140, held_out=0.01),
        model=ModelConfig(image_size=64, channels=3, width=64, latent_size=100),
        train=TrainConfig(steps=20_000, batch_size=128),
        bank=BankConfig(inverted=0),
    )
