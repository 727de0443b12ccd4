"""The end of every page: when, with what, on what, how busy the machine was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcore.report.page import Facts


def manifest(report: Mapping[str, Any]) -> list[Facts]:
    """What a report says of its own making; nothing where it says nothing."""
    about: Mapping[str, Any] = report.get("manifest") or {}
    host = about.get("host") or report.get("host") or {}
    versions = {n: v for n, v in (about.get("versions") or {}).items() if n != "quantcore"}
    shares = [
        v["latency_others_share_of_cores"]
        for v in (*report.get("floats", ()), *report.get("variants", ()))
        if v.get("latency_others_share_of_cores") is not None
    ]
    known = {
        "date": about.get("date"),
        "command": about.get("command"),
        "quantcore": about.get("quantcore"),
        "versions": ", ".join(f"{name} {found}" for name, found in versions.items()),
        "SHA-256 of the weights": about.get("weights_sha256"),
        "SHA-256 of the data": about.get("data_sha256"),
        "machine": ", ".join(
            str(part)
            for part in (
                host.get("processor"),
                f"{host['cores']} cores" if host.get("cores") else None,
                host.get("system"),
                f"Python {host['python']}" if host.get("python") else None,
            )
            if part
        ),
        "threads": about.get("threads"),
        "load": f"while latencies were measured, other programs used {max(shares):.0%} of the cores"
        if shares
        else None,
        "rewrites": "; ".join(report.get("rewrites", ())),
    }
    return [Facts({name: value for name, value in known.items() if value})]
