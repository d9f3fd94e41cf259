"""How fast: the final stage, a worker's start, memory; on the CPU, and on CUDA where there is one."""
