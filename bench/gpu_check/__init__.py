"""All that needs a GPU, in two commands; see ``__main__``."""
