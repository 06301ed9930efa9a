"""Sources of examples: arrays in memory, files, and sets that come with scikit-learn."""
