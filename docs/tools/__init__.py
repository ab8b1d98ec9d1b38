"""Tools for the documents: check them, draw the README's picture, run the notebooks."""
