"""Pure functions on arrays: normalisation, test-time augmentation, activation. No I/O."""
