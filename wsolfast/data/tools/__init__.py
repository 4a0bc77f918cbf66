"""Work on a data set as a whole: check, pack, fetch, render."""
