"""``python -m slipway``: the same as ``slipway``."""

from slipway._cli import main

if __name__ == "__main__":
    main()
