"""CIFAR-10 (Krizhevsky 2009), one kind of object normal (0: airplane), all others anomalous; photographs, in colour.

    pip install -r requirements-tfds.txt
    python train.py --config configs/cifar10.py --config.data.normal=1 --workdir runs/automobile
    python score.py --config configs/cifar10.py --workdir runs/automobile --compare

TensorFlow Datasets downloads it. Other sources need two more flags: --config.data.source=npz with the file, or
--config.data.source=folder with the folder of class folders, as --config.data.dir. Edges say little about photographs,
so most of the score is that of a rotation network (docs/detection.md, CIFAR-10). Training takes about six minutes on
two CPU cores.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, RotationConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="tfds", name="cifar10", normal="0"),
        model=ModelConfig(image_size=32, channels=3, width=32, latent_size=64),
        train=TrainConfig(steps=1_500),
        rotation=RotationConfig(steps=4_000, weight=3.0),
        bank=BankConfig(inverted=0),
    )
