"""What all reports are made with: numbers as text, tables, plots, and pages of one HTML file."""
