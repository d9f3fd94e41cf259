import sys

from msbd_dist.tiny.train.command import main

if __name__ == "__main__":
    sys.exit(main())
