"""Many homes at once: who is in a fleet, what a campaign does to them, and what became of each."""
