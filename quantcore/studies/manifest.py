"""How a study's record came about: when, with what, on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import quantcore
from quantcore.analysis.scoring import labels_key
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.runtime.keys import content_key, file_digest, file_digests
from quantcore.runtime.progress import Progress
from quantcore.runtime.threads import cores


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """How a study was called, for the record.

    Attributes:
        command: The command line.
        weights: File of the network; hashed where it is one.
        threads: CPU threads; None for all.
    """

    command: str = ""
    weights: Path | None = None
    threads: int | None = None


def manifest(
    invocation: Invocation,
    dataset: Dataset,
    images: Sequence[ImageFile],
    host: Mapping[str, object],
    versions: Mapping[str, str],
    progress: Progress,
) -> dict[str, Any]:
    """When, with what and on what a study was made; the `manifest` of its record.

    Args:
        invocation: How it was called.
        dataset: What was judged on.
        images: Of it.
        host: The machine, see `Runtime.host`.
        versions: Of what computed, beside quantcore.
        progress: Where the reading of the images reports; files that were read before are known.
    """
    digests = file_digests((image.path for image in images), progress)
    weights = invocation.weights if invocation.weights and invocation.weights.is_file() else None
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": invocation.command,
        "quantcore": quantcore.__version__,
        "versions": dict(versions),
        "weights_sha256": file_digest(weights) if weights else None,
        "data_sha256": content_key(list(digests.values()), labels_key(dataset, images)),
        "threads": invocation.threads or cores(),
        "host": dict(host),
    }
