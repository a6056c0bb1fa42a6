"""The parts of run.py: what is measured (plan), how (machinery) and what it says (report).

Standard library only: it runs on whatever Python is at hand, not on a contestant's.
"""
