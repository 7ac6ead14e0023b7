"""Training: from motion or a dataset to the weights of a lifter."""
