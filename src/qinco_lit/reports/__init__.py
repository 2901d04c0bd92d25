"""What commands show and leave for readers: tables, plots, pages."""
