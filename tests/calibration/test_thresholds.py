import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.entropy import entropy_threshold
from quantcore.calibration.mse import mse_threshold
from quantcore.calibration.percentile import percentile_threshold

from . import reference

COUNTS = hnp.arrays(
    np.int64, st.integers(20, 70), elements=st.integers(0, 50) | st.sampled_from([0, 0, 100000])
)


def edges_of(counts):
    return np.arange(len(counts) + 1, dtype=np.float64) / 4


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.sampled_from([4, 8, 16, 32]), st.sampled_from([1, 3]))
def test_entropy_finds_the_smallest_divergence(counts, levels, stride):
    edges = edges_of(counts)
    found = entropy_threshold(counts, edges, levels, 16, stride)
    if not counts[1:].any():
        assert found == edges[-1]
        return
    candidates = range(16, len(counts) + 1, stride)
    divergences = {i: reference.divergence(counts, i, levels) for i in candidates}
    assert divergences[int(found * 4)] <= min(divergences.values()) + 1e-12


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.sampled_from([3, 7, 15]), st.sampled_from([1, 3]))
def test_mse_finds_the_smallest_error(counts, top, stride):
    edges = edges_of(counts)
    centres = (edges[1:] + edges[:-1]) / 2
    found = mse_threshold(counts, edges, top, 10, stride)
    errors = [reference.squared_error(counts, centres, c, top) for c in centres[10::stride]]
    assert reference.squared_error(counts, centres, found, top) <= min(errors) * (1 + 1e-9) + 1e-9


def test_without_candidates_nothing_is_clipped():
    counts = np.arange(1, 11)
    assert entropy_threshold(counts, edges_of(counts), start_bin=128) == 2.5
    assert mse_threshold(counts, edges_of(counts), start_bin=128) == 2.5


def shapes():
    """Counts with 2048 bins as activations give them, and awkward ones."""
    random = np.random.default_rng(0)
    normal = np.abs(random.standard_normal(200_000))
    heavy = np.abs(random.standard_t(3, 200_000))
    relu = np.maximum(random.standard_normal(200_000), 0)
    silu = random.standard_normal(200_000) * 3
    silu = np.abs(silu / (1 + np.exp(-silu)))
    yield from (normal, heavy, relu, silu, random.uniform(size=2000), np.array([0.0] * 99 + [1, 5]))


# From 16, there are candidates of fewer bins than codes. The last case has empty ones among them,
# whose divergence is NaN in the toolkit, and taken for the smallest.
@pytest.mark.parametrize(
    ("case", "start"), [*((i, 128) for i in range(6)), *((i, 16) for i in range(5))]
)
def test_entropy_equals_the_toolkit_to_the_bit(case, start):
    calib = pytest.importorskip("pytorch_quantization.calib.histogram")
    values = list(shapes())[case]
    bins, stride = (512, 1) if case != 1 else (2048, 64)
    counts, edges = np.histogram(values.astype(np.float32), bins=bins, range=(0, values.max()))
    edges = edges.astype(np.float32)
    with np.errstate(all="ignore"):
        wanted = calib._compute_amax_entropy(counts.copy(), edges, 8, False, stride, start)
    found = entropy_threshold(counts, edges, start_bin=start, stride=stride)
    assert np.float32(found) == np.float32(wanted)


@pytest.mark.parametrize("case", range(6))
def test_mse_agrees_with_the_toolkit(case, monkeypatch):
    calib = pytest.importorskip("pytorch_quantization.calib.histogram")
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_: self)
    values = list(shapes())[case]
    counts, edges = np.histogram(values.astype(np.float32), bins=1024, range=(0, values.max()))
    wanted = float(calib._compute_amax_mse(counts, edges, 8, False, 1, 128))
    found = mse_threshold(counts, edges)
    centres = (edges[1:] + edges[:-1]) / 2
    wanted = centres[np.argmin(np.abs(centres - wanted))]  # undoes float32
    theirs, ours = (reference.squared_error(counts, centres, t, 127) for t in (wanted, found))
    # The toolkit sums in float32, so its choice may be worse than the best by its rounding.
    assert ours <= theirs * (1 + 1e-9)
    assert theirs <= ours * (1 + 1e-5)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("percentile", [50, 99, 99.9, 99.99])
def test_percentile_equals_the_toolkit_to_the_bit(case, percentile):
    calib = pytest.importorskip("pytorch_quantization.calib.histogram")
    values = list(shapes())[case]
    counts, edges = np.histogram(values, bins=2048)
    wanted = calib._compute_amax_percentile(counts, edges, percentile)
    assert np.float32(percentile_threshold(counts, edges, percentile)) == np.float32(wanted)
