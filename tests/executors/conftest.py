"""A Dask cluster on loopback for all tests here.

Its scheduler and workers are threads of this process, which speak through sockets all the same;
what they are told to do runs in processes of its own anyway. `test_dask.py` has a worker that is
one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quantcore.executors.dask import DaskExecutor


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
        memory_limit="2GB",
    ) as found:
        yield found


@pytest.fixture(scope="session")
def dask(cluster) -> Iterator[DaskExecutor]:
    with cluster.get_client() as client, DaskExecutor(client) as executor:
        yield executor
