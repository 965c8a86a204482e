import faiss
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from curate.concepts.assign import assign, to_float
from curate.concepts.kmeans import member_sums, start, starting_rows, train, unit_on_grid
from curate.errors import SpecError


def blobs(n=8000, d=32, groups=25, spread=0.25, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, n)
    centre = rng.standard_normal((groups, d))
    x = centre[label] / np.linalg.norm(centre, axis=1)[label][:, None] + spread * rng.standard_normal((n, d)) / np.sqrt(
        d
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16), label


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_centroids_are_unit_rows_on_the_grid_and_the_objective_falls(engine):
    x, _ = blobs()
    t = train(x, 30, niter=12, seed=5, engine=engine)
    assert t.centroids.shape == (30, 32)
    assert t.centroids.dtype == np.float32
    grid = t.centroids.astype(np.float64) * 2**24
    assert np.array_equal(grid, np.rint(grid))
    assert np.linalg.norm(t.centroids.astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)
    assert len(t.objective) == 12
    assert all(b <= a + 1e-7 for a, b in zip(t.objective, t.objective[1:], strict=False))
    assert t.n == 8000
    assert t.empty == 0


def test_iterations_follow_faiss_from_the_same_start():
    x, _ = blobs(spread=1.0)
    k = 40
    ours = train(x, k, niter=15, seed=7)
    model = faiss.Kmeans(32, k, niter=15, spherical=True, min_points_per_centroid=1, max_points_per_centroid=8000)
    model.train(x.astype(np.float32), init_centroids=unit_on_grid(x[starting_rows(len(x), k, 7)]))
    theirs = [1.0 - s["obj"] / len(x) for s in model.iteration_stats]
    assert ours.objective[:5] == pytest.approx(theirs[:5], rel=1e-4)
    assert ours.objective == pytest.approx(theirs, rel=1e-3)


def test_as_good_as_faiss_from_its_own_start():
    x, _ = blobs(spread=4.0)
    exact = np.mean([train(x, 40, seed=s).objective[-1] for s in range(4)])
    theirs = np.mean([train(x, 40, seed=s, engine="faiss").objective[-1] for s in range(4)])
    assert exact == pytest.approx(theirs, rel=0.01)


def test_one_iteration_is_the_normalised_mean():
    x, _ = blobs(n=500)
    start = unit_on_grid(x[starting_rows(500, 7, 1)])
    concept = (x.astype(np.float64) @ start.astype(np.float64).T).argmax(axis=1)
    mean = np.stack([x[concept == j].astype(np.float64).sum(axis=0) for j in range(7)])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(train(x, 7, niter=1, seed=1).centroids - mean).max() <= 2.0**-24


def test_finds_separated_groups():
    x, label = blobs(groups=6, spread=0.1)
    best = min((train(x, 6, niter=10, seed=s) for s in range(8)), key=lambda t: t.objective[-1])
    assert adjusted_rand_score(label, assign(x, best.centroids)[0]) > 0.999


def test_seed_decides():
    x, _ = blobs(n=2000)
    a, b, c = (train(x, 20, niter=3, seed=s).centroids for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    rows = starting_rows(1000, 1000, 9)
    assert sorted(rows.tolist()) == list(range(1000))
    # a uniform choice: each row starts about one seed in ten
    hits = np.bincount(np.concatenate([starting_rows(100, 10, s) for s in range(2000)]), minlength=100)
    assert abs(hits - 200).max() < 5 * np.sqrt(200 * 0.9)


def test_faiss_uses_every_row_and_leaves_its_thread_count_alone():
    x, _ = blobs(n=3000)
    before = faiss.omp_get_max_threads()
    t = train(x, 4, niter=5, seed=0, engine="faiss", threads=1)  # 3000 rows are more than its default of 256 * 4
    assert faiss.omp_get_max_threads() == before
    _, distance = assign(x, t.centroids)
    assert t.objective[-1] == pytest.approx(to_float(distance).mean(), rel=0.01)


def test_empty_concepts_are_split_off_the_largest_and_reported():
    two = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=np.float16)
    t = train(np.repeat(two, [60, 40], axis=0), 5, niter=4, seed=0)
    assert t.empty == 3  # only two distinct rows exist
    concept, distance = assign(two, t.centroids)
    assert len(set(concept.tolist())) == 2
    assert to_float(distance) == pytest.approx(0.0, abs=1e-5)


def test_members_that_cancel_out_keep_the_old_centroid():
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float16)
    t = train(opposite, 1, niter=3, seed=0)
    assert np.abs(t.centroids).max() == 1.0


def test_sums_do_not_depend_on_order():
    x, _ = blobs(n=5000)
    concept = assign(x, unit_on_grid(x[:9]))[0]
    sums, counts = member_sums(x, concept, 11)
    shuffled = np.random.default_rng(0).permutation(5000)
    again, _ = member_sums(x[shuffled], concept[shuffled], 11)
    assert np.array_equal(sums, again)
    assert np.array_equal(counts, np.bincount(concept, minlength=11))
    assert not sums[9:].any()


def test_float32_rows_are_used_on_the_grid():
    x, _ = blobs(n=1000)
    assert np.array_equal(
        train(x, 5, niter=3, seed=0).centroids, train(x.astype(np.float32), 5, niter=3, seed=0).centroids
    )


def test_too_few_rows():
    with pytest.raises(SpecError, match=r"5 concepts needs at least 5 rows.*3"):
        train(np.eye(3, dtype=np.float16), 5, seed=0)
    with pytest.raises(SpecError, match="at least 1 concept"):
        train(np.eye(3, dtype=np.float16), 0, seed=0)
    with pytest.raises(SpecError, match="table"):
        train(np.zeros(3, dtype=np.float16), 1, seed=0)


def test_from_the_same_centroids_as_good_as_faiss_on_everything():
    x, _ = blobs(n=20_000, d=48, groups=60, spread=2.0)
    begin = start(x, 64, seeding="kmeans||", seed=1)
    ours = train(x, 64, niter=25, seed=0, init=begin)
    theirs = train(x, 64, niter=25, seed=0, engine="faiss", init=begin)
    assert ours.objective[0] == pytest.approx(theirs.objective[0], rel=1e-5)
    for centroids in (ours.centroids, theirs.centroids):
        assert to_float(assign(x, centroids)[1]).mean() == pytest.approx(ours.objective[-1], rel=1e-3)


def test_init_stands_for_the_seeds():
    x, _ = blobs(n=900)
    for seeding in ("random", "kmeans++", "kmeans||"):
        begin = start(x, 9, seeding=seeding, seed=4)
        by_word = train(x, 9, niter=4, seed=4, seeding=seeding)
        by_rows = train(x, 9, niter=4, seed=77, init=begin)
        assert by_word.centroids.tobytes() == by_rows.centroids.tobytes()
        assert by_word.objective == by_rows.objective
    with pytest.raises(SpecError, match=r"9 concepts cannot start from centroids \(8, 32\)"):
        train(x, 9, seed=0, init=begin[:8])


def test_tolerance_ends_the_iterations():
    x, _ = blobs(n=2000, spread=1.0)
    full = train(x, 30, niter=60, seed=1).objective
    some = train(x, 30, niter=60, seed=1, tolerance=0.01).objective
    assert some == full[: len(some)]
    assert len(some) < 30
    assert (some[-2] - some[-1]) / some[-2] < 0.01 <= (some[-3] - some[-2]) / some[-3]


@pytest.mark.gpu
def test_a_gpu_changes_no_byte():
    x, _ = blobs(n=20_000, spread=1.0)
    here, there = (train(x, 50, niter=8, seed=1, seeding="kmeans||", device=device) for device in ("cpu", "cuda"))
    assert here.centroids.tobytes() == there.centroids.tobytes()
    assert here.objective == there.objective
