"""Aggregation: from reports and updates to the next global model. numpy alone, no files, no MPI."""
