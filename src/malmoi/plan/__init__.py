"""Before spending: what a model weighs, in parameters and in bytes, before anything is built."""
