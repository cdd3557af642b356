"""The page: a model is repaired in a browser, with the library call's own stages and store."""
