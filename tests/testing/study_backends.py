"""Backends for the portability study, built on the fakes; their processes import this too."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from fake_backends import Fake, Session, scaled

from quantcore.errors import BackendError


class First(Fake):
    """As honest as `Fake`; where `STUDY_SLOW` is set, it simulates slowly enough to be killed."""

    class Session(Session):
        def _simulate(self, batch, forced, computed):
            time.sleep(float(os.environ.get("STUDY_SLOW", 0)))
            return super()._simulate(batch, forced, computed)

        def _observe(self, sites, batches):
            log = os.environ.get("STUDY_LOG")
            if log:
                with Path(log).open("a") as file:
                    file.write(f"{self.name}\n")
            return super()._observe(sites, batches)


class Single(First):
    """Computes in float32 alone."""

    capabilities = replace(First.capabilities, arithmetics=frozenset({"float32"}))


class Wide(First):
    """Finds ranges so wide that nothing is left in the codes."""

    class Session(First.Session):
        def _observe(self, sites, batches):
            return scaled(super()._observe(sites, batches), 400)


class Mute(First):
    """Calibrates and passes the audit, which is in pairs; single images it cannot simulate."""

    class Session(First.Session):
        def _simulate(self, batch, forced, computed):
            if len(batch) == 1:
                raise BackendError("this framework has lost its voice")
            return super()._simulate(batch, forced, computed)
