"""Looks into engines: verification, bisection, profile and report."""
