"""OCTMNIST (MedMNIST): retinal scans of 28x28 pixels, healthy ones to train on, by the model of the AnoGAN paper.

    python train.py --config configs/oct.py --config.data.dir=octmnist.npz
    python score.py --config configs/oct.py

medmnist.com has the file; its class 3 is healthy (0 choroidal neovascularisation, 1 diabetic macular edema, 2 drusen).
Any other file of MedMNIST works with its own class, --config.data.normal=0, a larger one (octmnist_128.npz) with
--config.model.image_size=128. Anomalous images of train_images and all of val_images are not looked at. Detection on
OCTMNIST was not measured.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="npz", normal="3"),
        model=ModelConfig(image_size=32, width=64, kernel_size=5, latent_size=100, latent_prior="uniform"),
        train=TrainConfig(steps=5_000),
    )
