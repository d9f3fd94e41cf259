"""How fast: the final stage, how a worker starts, and memory; on CUDA too where there is one."""
