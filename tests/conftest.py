"""What all tests share: hypothesis tries the same examples in every run.

`make fuzz` is where random ones are tried, for as long as one likes.
"""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
