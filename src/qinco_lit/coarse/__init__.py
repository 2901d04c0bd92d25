"""The coarse quantizer: centroids of the lists by k-means, and the list of each vector."""
