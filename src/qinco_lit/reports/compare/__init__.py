"""Runs side by side: found in folders, read, joined, and shown as tables, plots and a page."""
