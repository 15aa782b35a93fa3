"""Score images on a Ray cluster, from paths or URIs to Parquet files; a second run scores the images still missing."""

import argparse
import hashlib
from pathlib import Path

import pandas as pd
import ray
from pyarrow import dataset, fs

import anogan_jax
from anogan_jax.data.image_files import SUFFIXES
from anogan_jax.evaluation import score_contents


class Scorer:
    """A detector, loaded once, that scores tables of files with the columns path and bytes."""

    def __init__(self, folder: Path) -> None:
        self.detector = anogan_jax.load(folder)

    def __call__(self, files: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(score_contents(self.detector, zip(files["path"], files["bytes"], strict=True)))


def main() -> None:
    """Score the images that have no row in the output, and write a Parquet file for each block of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("detector", type=Path, help="work directory that all machines see")
    parser.add_argument("output", help="folder of the Parquet files, or its URI")
    parser.add_argument("images", nargs="+", help="images and folders of images, or their URIs")
    parser.add_argument("--actors", type=int, help="default: one for each GPU, or for each machine")
    parser.add_argument("--batch", type=int, default=256, help="number of images that an actor takes at a time")
    given = parser.parse_args()
    detector = given.detector.absolute()
    digest = hashlib.sha256((detector / "detector" / "detector.json").read_bytes()).hexdigest()[:16]
    output = given.output if "://" in given.output else str(Path(given.output).absolute())
    store, folder = fs.FileSystem.from_uri(output)
    store.create_dir(folder)
    earlier, of_it = dataset.dataset(folder, filesystem=store, format="parquet"), dataset.field("detector") == digest
    done = set(earlier.to_table(["file"], filter=of_it)["file"].to_pylist()) if earlier.files else set()

    def missing(paths: list[str]) -> list[str]:
        found = [path for path in dict.fromkeys(paths) if path.lower().endswith(SUFFIXES) and path not in done]
        print(f"{len(found)} images to score; {len(set(paths) & done)} were scored before", flush=True)
        return found or parser.exit()

    files = ray.data.read_binary_files(given.images, include_paths=True, partition_filter=missing)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = ray.data.ActorPoolStrategy(size=given.actors or gpus or len(ray.nodes()))
    settings = {"batch_size": given.batch, "batch_format": "pandas", "num_gpus": min(gpus, 1), "num_cpus": 0.5}
    scored = files.map_batches(Scorer, fn_constructor_args=[detector], compute=actors, **settings)
    for rows in scored.iter_batches(batch_size=None, batch_format="pandas"):
        part = hashlib.sha256("".join([digest, *rows["file"]]).encode()).hexdigest()[:32]
        rows.assign(detector=digest).to_parquet(f"{folder}/.{part}", filesystem=store, index=False)
        store.move(f"{folder}/.{part}", f"{folder}/{part}.parquet")  # so that a file is complete or does not exist


if __name__ == "__main__":
    main()
