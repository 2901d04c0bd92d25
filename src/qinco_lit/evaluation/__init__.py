"""What a codec is worth: error, recall, the rate curve, baselines."""
