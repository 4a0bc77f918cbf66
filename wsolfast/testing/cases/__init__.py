"""One file per op; ``CASES`` lists the ways of calling it that every test and bench goes through."""
