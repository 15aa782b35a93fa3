"""Training and scoring on simulated devices, to be run as a script with eight of them; see test_devices.py."""

import logging
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from anogan_jax import (
    Config,
    Model,
    draw_bank,
    fit,
    inference_weights,
    init_state,
    make_encoder,
    make_features,
    make_gan,
    make_index,
    make_mesh,
    make_optimizer,
    make_scorer,
    make_search,
    make_train_step,
    score_images,
)
from anogan_jax.config import DataConfig, ModelConfig, TrainConfig
from anogan_jax.devices import replicated
from anogan_jax.errors import UserError

COUNTS = (1, 2, 8)
SCORERS = {
    "search": (3, dict(start="bank", starts=2)),
    "nearest": (0, dict(start="bank", starts=4)),
    "encoder": (0, dict(start="encoder")),
}
FIELDS = ("score", "residual", "discrimination", "reconstruction", "anomaly_map", "z")


class CompileCount(logging.Handler):
    """Counts compilations by the name of the compiled function."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Finished XLA compilation of"):
            self.counts[message.split()[4]] += 1


def main(path):
    """Train and score on meshes of each size, with eight simulated devices, and write the results."""
    compiled = CompileCount()
    logging.getLogger("jax").addHandler(compiled)
    logging.getLogger("jax").propagate = False
    jax.config.update("jax_log_compiles", True)
    gan, optimizer = make_gan(image_size=16, channels=1, width=4, latent_size=4), make_optimizer()
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(0, 0.5, (70, 16, 16, 1)).cumsum(1), -1, 1).astype(np.float32)
    features, encoder = make_features("structure", 16, 1), make_encoder(gan)
    results, model = {}, None
    for count in COUNTS:
        mesh = make_mesh(jax.devices()[:count])
        state = jax.device_put(init_state(gan, optimizer, jax.random.key(0), channels=1), replicated(mesh))
        step = make_train_step(gan, optimizer, mesh=mesh)
        for i in range(10):
            state, _ = step(state, images[16 * (i % 4) :][:16])
        results[f"compiled step {count}"] = compiled.counts.pop("jit(step)")
        key = jax.random.key_data(state.key)
        state = jax.device_get(state._replace(key=key))
        results |= {f"state {count} {i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        if model is None:
            weights = jax.jit(inference_weights, static_argnums=0)(
                gan, state._replace(key=jax.random.wrap_key_data(key))
            )
            variables = jax.jit(lambda: encoder.init(jax.random.key(2), images[:1], train=False))()
            bank = draw_bank(gan, weights, jax.random.key(1), 256)
            model = jax.device_get(Model(weights, variables, make_index(bank, features)))
        for name, (steps, settings) in SCORERS.items():
            search = make_search(gan, features, steps=steps, learning_rate=0.1)
            scorer = make_scorer(gan, search, encoder=encoder, mesh=mesh, **settings)
            for chosen in (images[:3], images):
                scores = score_images(scorer, model, chosen)
            results |= {f"{name} {count} {field}": values for field, values in scores._asdict().items()}
            results[f"compiled {name} {count}"] = compiled.counts.pop("jit(score_block)")
    config = Config(
        data=DataConfig(source="arrays"), model=ModelConfig(image_size=16), train=TrainConfig(batch_size=12)
    )
    try:
        fit(images, config)
    except UserError as error:
        results["error"] = str(error)
    np.savez(path, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
