"""Which policies to try: space, damage, allocation, the study, and where jobs run.

Nothing is imported here: `autoprune` loads this package before it puts the function `search` in its place.
"""
