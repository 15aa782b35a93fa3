"""OCTMNIST (MedMNIST): retinal scans of 28x28 pixels, healthy ones to train on.

    python train.py --config configs/oct.py --config.data.dir=octmnist.npz
    python score.py --config configs/oct.py

The model has the AnoGAN paper's kernel size, prior and width, at 32x32 pixels. medmnist.com has the file; its class 3
is healthy (0 choroidal neovascularisation, 1 diabetic macular edema, 2 drusen). Other MedMNIST files work too: give the
number of their normal class, such as --config.data.normal=0. For larger images (octmnist_128.npz) give
--config.model.image_size=128. Anomalous images in train_images, and all of val_images, are not used. Detection on
OCTMNIST was not measured.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="npz", normal="3"),
        model=ModelConfig(image_size=32, width=64, kernel_size=5, latent_size=100, latent_prior="uniform"),
        train=TrainConfig(steps=5_000),
    )
