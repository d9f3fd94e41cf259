"""A Ray of several nodes on this machine, each with one CPU and its own raylet.

    python tests/nodes.py NUMBER

Prints its address and the process numbers of the raylets as JSON, the head's first, and lives until
its input ends. A process of its own: Ray keeps tokens for as long as a process lives.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster


def main(number: str) -> None:
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=1) for _ in range(int(number) - 1))]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)  # noqa: T201
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
