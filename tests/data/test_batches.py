"""Batches: order, length, errors from the readers, and threads that end."""

import threading
import time

import numpy as np
import pytest

import quantcore.data.batches as module
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.errors import DataError
from quantcore.ir.model import Preprocessing

PREPROCESSING = Preprocessing((32, 32))


def _readers():
    return [t for t in threading.enumerate() if t.name.startswith("quantcore-reader")]


@pytest.fixture
def images(write_coco):
    return CocoDataset.open(write_coco(7), "val2017").select()


def test_order_and_sizes(images):
    batches = Batches(images, PREPROCESSING, 3)
    assert len(batches) == 3
    seen = list(batches)
    assert [b.image_ids for b in seen] == [(100, 93, 86), (79, 72, 65), (58,)]
    assert [b.images.shape for b in seen] == [(3, 3, 32, 32), (3, 3, 32, 32), (1, 3, 32, 32)]
    assert [len(b.placements) for b in seen] == [3, 3, 1]
    assert all(b.images.dtype == np.float32 and b.seconds >= 0 for b in seen)


def test_can_be_read_again_in_any_way(images):
    batches = Batches(images, PREPROCESSING, 2)
    one = [b.images for b in batches]
    two = list(Batches(images, PREPROCESSING, 2, workers=5).inputs())
    for a, b, c in zip(one, batches.inputs(), two, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert len(batches.inputs()) == len(batches) == 4


def test_errors_reach_the_consumer(images):
    images[4].path.write_bytes(b"nothing")
    seen = []
    with pytest.raises(DataError, match=r"72\.jpg: corrupt"):
        seen.extend(b.image_ids for b in Batches(images, PREPROCESSING, 2))
    assert seen == [(100, 93), (86, 79)]
    assert not _readers()


def test_threads_end_when_the_consumer_stops(images):
    for _ in Batches(images, PREPROCESSING, 1).inputs():
        assert _readers()
        break
    assert not _readers()


def test_reads_ahead_and_not_too_far(images, monkeypatch):
    started = []
    read = module.read_image
    monkeypatch.setattr(module, "read_image", lambda i: (started.append(i.id), read(i))[1])
    stream = iter(Batches(images, PREPROCESSING, 1, workers=1))
    next(stream)
    deadline = time.monotonic() + 5
    while len(started) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert started == [i.id for i in images[:3]]
    stream.close()


def test_refuses_nonsense(images):
    with pytest.raises(DataError, match="no images"):
        Batches((), PREPROCESSING)
    for batch_size, workers in ((0, 1), (1, 0)):
        with pytest.raises(DataError, match="must be 1 or more"):
            Batches(images, PREPROCESSING, batch_size, workers)
