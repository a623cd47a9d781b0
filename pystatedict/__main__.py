# SPDX-License-Identifier: Apache-2.0
"""`python -m pystatedict`: the command line."""

from ._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
