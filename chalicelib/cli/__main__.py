"""`python -m chalicelib.cli`: the same as `depot`, for processes that start themselves again."""

from chalicelib.cli import main

raise SystemExit(main())
