import os

# Under `uv run` Ray would pack the current folder, or refuse to, and build an environment anew for
# workers; it reads this when it is imported. Workers run in the environment that the driver has.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
