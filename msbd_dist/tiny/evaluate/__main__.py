import sys

from msbd_dist.tiny.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
