"""Sources of examples: arrays in memory, files, published archives, and prepared sets of TensorFlow Datasets."""
