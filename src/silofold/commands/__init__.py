"""One module a command of the command line; faults become exit codes by who calls them."""
