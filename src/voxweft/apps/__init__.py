"""What people run: each app builds a plan and hands it to the engine."""
