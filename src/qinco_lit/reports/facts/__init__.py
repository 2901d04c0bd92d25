"""What files and folders are, by their records and headers alone: no tensor is read, torch is not imported."""
