"""What every stage is computed with: fitting, seeds, precision, devices, the store."""
