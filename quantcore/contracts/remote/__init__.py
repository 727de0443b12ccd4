"""A backend that lives in another Python environment, driven through files and lines of JSON.

Frameworks whose pins conflict cannot share an environment. Where `QUANTCORE_PYTHON_<NAME>` (the
backend's name in capitals, `-` as `_`) or `quantcore.toml` holds the path of another environment's
Python, which has the same quantcore and the plugin, the backend runs there: graph, batches and
heads go through files of a temporary folder, everything else through the pipes of a subprocess.
Errors, progress and cancellation are those of a backend in this process.
"""

from quantcore.contracts.remote.client import RemoteBackend, RemoteSession, listed
from quantcore.contracts.remote.environments import (
    CONFIG_FILE,
    CONFIG_VARIABLE,
    confirm,
    elsewhere,
    interpreter,
    variable,
)

__all__ = [
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "RemoteBackend",
    "RemoteSession",
    "confirm",
    "elsewhere",
    "interpreter",
    "listed",
    "variable",
]
