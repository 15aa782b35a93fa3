"""An image's score depends on nothing but the image and the model."""

import re
import shutil

import jax
import numpy as np
import pytest

from anogan_jax import (
    cross_entropy_loss,
    from_bank,
    from_prior,
    make_bank,
    make_discriminator_scorer,
    make_search,
    make_search_scorer,
    score_images,
)
from anogan_jax import run as runs
from anogan_jax.devices import make_mesh
from anogan_jax.scoring import lanes_on
from anogan_jax.search import PAPER_SETTINGS

LANES = lanes_on(make_mesh())


@pytest.fixture(scope="module")
def bank(gan, weights):
    return make_bank(gan, weights, jax.random.key(5), 256)


@pytest.fixture(scope="module", params=["bank", "paper"])
def scorer(request, gan, weights, bank):
    if request.param == "bank":
        return make_search_scorer(make_search(gan, steps=60), from_bank([bank]))
    return make_search_scorer(make_search(gan, **PAPER_SETTINGS | {"steps": 60}), from_prior(gan))


@pytest.fixture(scope="module")
def queries(blobs):
    """More than fit into the lanes at once, easy and hard."""
    return np.concatenate([blobs[:45], -blobs[:38]])


def test_alone_or_in_any_batch_order_or_position(scorer, weights, queries):
    """Bit for bit, whatever the lanes' other occupants are and when they finish."""
    together = score_images(scorer, weights, queries)
    order = np.random.default_rng(0).permutation(len(queries))
    shuffled = score_images(scorer, weights, queries[order])
    for ours, theirs in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(ours[order], theirs)
    for i in (0, 7, 82):
        alone = score_images(scorer, weights, queries[i : i + 1])
        assert alone.score[0] == together.score[i]


def test_nothing_is_carried_from_one_query_to_the_next(scorer, weights, queries):
    """The same query gives the same bits whatever was scored before it."""
    before = score_images(scorer, weights, queries[:1])
    score_images(scorer, weights, queries[1:])
    after = score_images(scorer, weights, queries[:1])
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_lanes_search_in_products_of_one_width_compiled_once(gan, weights, bank, queries, caplog):
    """Products of another width may round differently, and a search makes much of a last bit."""
    scorer = make_search_scorer(make_search(gan, steps=2), from_bank([bank]))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for count in (1, LANES - 1, LANES, LANES + 1, len(queries)):
            scores = score_images(scorer, weights, queries[:count])
            assert all(len(field) == count for field in scores)
    compiled = [line for line in caplog.messages if "Compiling jit(turn)" in line]
    assert len(compiled) == 1
    assert set(re.findall(r"float32\[(\d+),16,16,1\]", compiled[0])) == {str(LANES)}


def test_no_lane_idles_while_a_query_waits(gan, weights, bank, queries):
    """The searches end at different times; the compiled program runs as often as full lanes need."""
    calls = []
    scorer = make_search_scorer(make_search(gan, steps=200), from_bank([bank]), on_turn=calls.append)
    lengths = []
    for image in queries:
        calls.clear()
        score_images(scorer, weights, [image])
        lengths.append(len(calls))
    assert len(set(lengths)) > 1
    lanes = [0] * LANES
    for turns in lengths:  # each to the lane that is free first
        lanes[lanes.index(min(lanes))] += turns

    calls.clear()
    score_images(scorer, weights, queries)
    assert len(calls) == max(lanes)


def test_restarts_keep_the_best(gan, weights, bank, queries):
    one, four = (
        score_images(
            make_search_scorer(make_search(gan, steps=30), from_bank([bank], n)),
            weights,
            queries[:20],
        )
        for n in (1, 4)
    )
    assert np.all(four.score <= one.score)
    assert np.any(four.score < one.score)


def test_queries_are_drawn_as_lanes_need_them(scorer, weights, queries):
    """Memory does not grow with the number of images: what is read ahead is bounded by the lanes."""
    given = 0

    def stream():
        nonlocal given
        for _ in range(8):
            for image in queries:
                given += 1
                yield image

    ahead = [given - done for done, _ in enumerate(scorer(weights, stream()), start=1)]
    assert len(ahead) == 8 * len(queries)
    assert max(ahead) <= 8 * LANES


def test_anomalies_score_higher(scorer, weights, queries):
    scores = score_images(scorer, weights, queries)
    assert scores.score[:45].max() < scores.score[45:].min()


def test_discriminator_score_is_its_cross_entropy(gan, weights, queries):
    scores = score_images(make_discriminator_scorer(gan), weights, queries)
    logits, _ = gan.discriminator.apply(weights.discriminator, queries, train=False)
    np.testing.assert_allclose(scores.score, jax.vmap(cross_entropy_loss)(logits), rtol=1e-4)


def test_integer_images_are_refused(scorer, weights):
    with pytest.raises(ValueError, match="floats"):
        score_images(scorer, weights, np.zeros((2, 16, 16, 1), np.uint8))


def test_a_bank_in_several_files_scores_as_one_in_memory(trained_run, tmp_path, monkeypatch, blobs):
    """A bank that is larger than a block: each block made once, kept, and read again."""
    shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("bank"))
    monkeypatch.setattr(runs, "_BANK_BLOCK", 24)
    run = runs.open_run(tmp_path / "run")
    key = jax.random.key(run.config.seed)
    blocks = [make_bank(run.gan, run.weights, jax.random.fold_in(key, i), n) for i, n in enumerate((24, 24, 16))]
    settings = run.config.search
    search = make_search(run.gan, steps=3, feature_layer=settings.feature_layer)
    make_starts = from_bank(blocks)
    expected = score_images(make_search_scorer(search, make_starts), run.weights, blobs[:40]).score
    for _ in range(2):
        scores = score_images(runs.make_scorer(run, "anogan"), run.weights, blobs[:40]).score
        np.testing.assert_array_equal(scores, expected)
    kept = sorted(path.name for path in (tmp_path / "run" / "bank" / "12").iterdir())
    assert kept == ["0-24.npz", "1-24.npz", "2-16.npz"]
