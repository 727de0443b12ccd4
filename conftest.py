"""Settings of every test: no deadlines, for the machines that run them are shared.

Property tests take the same examples each time, so that a change is judged by what it changed;
`--hypothesis-profile explore` looks for new ones.
"""

import os

from hypothesis import HealthCheck, settings

from quantcore.runtime.threads import cores, environment, share

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("shared", settings.get_profile("explore"), derandomize=True)
settings.load_profile("shared")

# Before any framework is imported: pytest's processes share the cores.
os.environ.update(environment(share(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))))


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: each process holds the frameworks, a gigabyte or so."""
    return min(cores(), 4)
