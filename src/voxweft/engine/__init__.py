"""Plan, sweep, ledger and report: the one path from a volume to a woven result."""
