"""Reports and telemetry of runs."""
