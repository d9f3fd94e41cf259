"""What only some platforms have is not needed to import, or to copy a file."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, sys, psutil, pyvips, zarr
sys.modules["resource"] = None
del os.copy_file_range
import msbd_dist.batch.run, msbd_dist.batch.validate, msbd_dist.cli
from msbd_dist.batch.record import peak_memory_mb
from msbd_dist.canvas.tiff_tags import LocalBytes
open("a", "wb").write(bytes(range(256)) * 99)
open("b", "wb").close()
LocalBytes("a").copy_to(LocalBytes("b", write=True))
assert open("a", "rb").read() == open("b", "rb").read()
assert peak_memory_mb() > 1
"""


def test_where_copying_by_the_system_and_resource_are_missing(tmp_path: object) -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=str(tmp_path))
