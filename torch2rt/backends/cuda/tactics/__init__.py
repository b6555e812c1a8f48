"""The ways to run layers on a CPU: one file per tactic, found by scanning this folder."""
