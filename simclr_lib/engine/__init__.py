"""What every other room stands on: processes, device, progress, paths, checks. It imports nothing of the package."""
