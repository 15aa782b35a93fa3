"""CIFAR-10 (Krizhevsky 2009), one kind of object normal (0: airplane), all others anomalous; photographs, in colour.

    pip install -r requirements-tfds.txt
    python train.py --config configs/cifar10.py --config.data.normal=1 --workdir runs/automobile
    python score.py --config configs/cifar10.py --workdir runs/automobile --compare

TensorFlow Datasets downloads it. The score includes the loss of a rotation network. The loss counts more for objects
that have an upright position, such as automobiles, and less if the network cannot classify the rotations of held-out
images. Detection on CIFAR-10 was not measured with this code; the weight 0.3 comes from trials with a prototype.
docs/detection.md (Rotations) has results on garments. Training takes about ten minutes on a CPU: 82 ms per step of the
GAN and 118 ms per step of the rotation network, timed on random images of this size.
"""

from anogan_jax.config import BankConfig, Config, DataConfig, ModelConfig, RotationConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="tfds", name="cifar10", normal="0"),
        model=ModelConfig(image_size=32, channels=3, width=32, latent_size=64),
        rotation=RotationConfig(steps=2_000, weight=0.3),
        bank=BankConfig(inverted=0),
    )
