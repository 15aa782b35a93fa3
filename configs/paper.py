"""The setting of the AnoGAN paper (Schlegl et al. 2017): 64x64 grey patches, filters 512-256-128-64, 5x5, uniform z.

Its retinal scans are not public. This takes a folder of grey images instead, normal ones in train/, and to
measure by, test/good/ and test/<defect>/.

    python train.py --config configs/paper.py --config.data.dir=FOLDER
    python score.py --config configs/paper.py

Made for a GPU: on two busy CPU cores a training step took 5 seconds and the search of one image 9. Of magnetic tiles
(Huang et al. 2018), after 150 of the 20,000 steps (--config.train.steps=150), 13 minutes: AUROC 0.52 on 64 test images,
no better than chance; PCA-32 0.58, kNN 0.55, kNN with a cosine 0.82 on the same.
"""

from anogan_jax.config import Config, DataConfig, ModelConfig, SearchConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(source="folder"),
        model=ModelConfig(image_size=64, width=64, kernel_size=5, latent_size=100, latent_prior="uniform"),
        train=TrainConfig(steps=20_000),
        search=SearchConfig(method="paper", discrimination_weight=0.1),
    )
