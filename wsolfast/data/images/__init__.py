"""One image on its way from a file to a tensor."""
