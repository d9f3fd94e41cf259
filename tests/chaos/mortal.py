"""A serial driver that kills itself at a write to its run directory.

    python tests/chaos/mortal.py MANIFEST OUT MOMENT PATTERN

MOMENT is ``before`` or ``after`` the file named like PATTERN is given its name.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas import lease
from msbd_dist.canvas.files import LocalFiles
from msbd_dist.canvas.urls import UrlFiles


def main(manifest: str, out: str, moment: str, pattern: str) -> int:
    lease.STALE_SECONDS = 4.0

    def deadly(real: Callable[..., Any], path_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            hit = fnmatch.fnmatch(path_of(*arguments), f"*{pattern}")
            if hit and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for kind in (LocalFiles, UrlFiles):
        for name in ("write", "create", "put"):
            real = getattr(kind, name)
            setattr(kind, name, deadly(real, lambda files, path, _: f"{files.url}/{path}"))
    os.replace = deadly(os.replace, lambda _, target: str(target))  # of pictures and of chunks
    return run_manifest(read_manifest(Path(manifest)), out, executor="serial").exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
