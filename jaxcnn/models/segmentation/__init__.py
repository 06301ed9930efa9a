"""Models for segmentation: functions that return a layer value, whose result has a logit for each class and pixel."""
