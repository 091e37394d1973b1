"""Decide which tokens go: strategy, schedule, restore and alignment, and what each costs on the user's data."""
