"""`python -m msbd_dist` is `msbd`, also in a checkout that is not installed."""

from msbd_dist.cli import main

if __name__ == "__main__":
    main()
