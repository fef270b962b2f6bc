"""What all jobs share: opening, planning, devices, workers, parts, running, status, verifying, reports, forecasts."""
