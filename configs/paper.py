"""The setting of the AnoGAN paper (Schlegl et al. 2017): 64x64 grey patches, filters 512-256-128-64, 5x5, uniform z.

The paper's retinal scans are not public. This config takes a folder of grey images instead: normal ones in train/ and,
to measure detection, test/good/ and test/<defect>/.

    python train.py --config configs/paper.py --config.data.dir=FOLDER
    python score.py --config configs/paper.py --preset paper

The model is the paper's. The default search is this project's; --preset paper is the paper's, with 500 steps from a
random z. Meant for a GPU: on two CPU cores a training step takes 1.4 seconds, and there are 20,000 steps. Detection was
not measured.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder"),
        model=ModelConfig(image_size=64, width=64, kernel_size=5, latent_size=100, latent_prior="uniform"),
        train=TrainConfig(steps=20_000),
    )
