"""Build: measure tactics, choose the cheapest, plan memory. Needs no torch."""
