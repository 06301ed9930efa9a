"""Sources of examples: arrays in memory, files, and data sets of scikit-learn."""
