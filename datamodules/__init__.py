"""The data sets: functions that say where the files of each are, and what is known of them."""
