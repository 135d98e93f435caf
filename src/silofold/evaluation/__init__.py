"""What predictions are worth: shares with intervals, paired tests, confusion, calibration. numpy alone."""
