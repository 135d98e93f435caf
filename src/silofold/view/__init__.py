"""What people look at: text tables, the live view of a terminal, plots and the report page."""
