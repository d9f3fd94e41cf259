"""What is in a run directory, seen from the host that this is started on.

    python tests/chaos/seen.py OUT FILE [wait]

Writes the digests of what is stored, and what is wrong with it, to FILE. With ``wait`` it waits
until a first task is done, and writes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
from campaign import broken_promises, digests


def main(out: str, file: str, *wait: str) -> None:
    if wait:
        system, path = fsspec.url_to_fs(out, use_listings_cache=False)
        while not any("-denoise-" in name for name in system.find(path)):
            time.sleep(0.2)
        return
    Path(file).write_text(json.dumps({"digests": digests(out), "wrong": broken_promises(out)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
