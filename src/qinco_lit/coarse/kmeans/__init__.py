"""k-means for the centroids of up to millions of lists, streaming and resumable."""
