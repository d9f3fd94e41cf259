"""What card numbers belong to, as its driver's tool says."""

from __future__ import annotations

import shutil
import subprocess

from benchmarks.gpu.bench import Found

ASKED = {
    "name": "name",
    "driver_version": "driver",
    "memory.total": "memory_mb",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "clocks.sm": "clock_mhz",
    "clocks.max.sm": "clock_max_mhz",
    "clocks.mem": "memory_clock_mhz",
    "temperature.gpu": "temperature_c",
}


def read_card() -> Found:
    """Of the first card, now; empty where there is no `nvidia-smi`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    fields = f"--query-gpu={','.join(ASKED)}"
    command = [tool, fields, "--format=csv,noheader,nounits", "--id=0"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    values = [value.strip() for value in answer.stdout.strip().split(",")]
    if answer.returncode or len(values) != len(ASKED):
        return {}
    return {name: _value(text) for name, text in zip(ASKED.values(), values, strict=True)}


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
