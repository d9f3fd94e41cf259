#!/usr/bin/env bash
# cluster/workstation.sh jobs/demo.yaml runs/demo
#
# Run a manifest on a Ray that stays up between runs, so that its workers start faster.
# Stop it with `ray stop`.
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"

manifest=${1:?usage: workstation.sh MANIFEST OUT}
out=${2:?usage: workstation.sh MANIFEST OUT}

ray status >/dev/null 2>&1 || ray start --head --include-dashboard=false
exec msbd run "$manifest" --out "$out" --address auto
